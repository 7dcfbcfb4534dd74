#include "learner/experiment.h"
enum delta_status learner_experiment_report(struct delta_buf *out, const char *results,
                                            enum learner_report_format format,
                                            struct delta_error *err)
{
    (void)out;
    (void)results;
    (void)format;
    (void)err;
    delta_buf_init(out, 1);
    return DELTA_OK;
}
enum delta_status learner_experiment_pictures(const char *results, const char *dir, size_t *count,
                                              struct delta_error *err)
{
    (void)results;
    (void)dir;
    (void)count;
    (void)err;
    return DELTA_OK;
}
