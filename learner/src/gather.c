#include "gather.h"

void learner_gather(struct learner_net *net, float *sum, bool first, bool last)
{
    for (size_t i = 0; i < learner_net_param_count(net); i++) {
        const struct learner_param *param = learner_net_param(net, i);
        for (size_t k = 0; param->grad && k < param->count; k++) {
            const float all = first ? param->grad[k] : sum[k] + param->grad[k];
            if (last)
                param->grad[k] = all;
            else
                sum[k] = all;
        }
        sum += param->count;
    }
}
