/* Figures of publications that ours are printed beside. Only what has a source stands here. */
#include "exp_table.h"

#include <string.h>

/* Seconds to learn one class on a Jetson Nano: training, then fine-tuning. */
const struct exp_paper_time exp_paper_times[] = {
    {"e2e", "E2E", 83700, 166160},
    {"packnet", "PackNet", 720, 1450},
    {"freeze", "weight freezing", 240, 1370},
    {NULL, NULL, 0, 0},
};

const char exp_paper_source[] =
    "Wang et al., Efficient On-Device Incremental Learning by Weight Freezing, ASP-DAC 2022, "
    "doi 10.1109/ASP-DAC52403.2022.9712563; Jetson Nano";
const char exp_paper_caveat[] =
    "The paper's figures come from another machine, and its base network and details of its "
    "protocol differ from ours wherever it does not state them: compare ratios, not seconds.";

const struct exp_paper_time *exp_paper_find(const char *method)
{
    for (const struct exp_paper_time *time = exp_paper_times; time->method; time++)
        if (strcmp(time->method, method) == 0)
            return time;
    return NULL;
}
