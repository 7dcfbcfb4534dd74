#include "gather.h"

#include "graph.h"
#include "net_device.h"

float *learner_gather_new(struct learner_net *net)
{
    return learner_net_block(net, net->grad_count ? net->grad_count : 1);
}

void learner_gather_free(struct learner_net *net, float *sum)
{
    learner_net_block_free(net, sum);
}

void learner_gather(struct learner_net *net, float *sum, bool first, bool last)
{
    if (first && !last)
        learner_device_copy(net->device, sum, net->grads, net->grad_count * sizeof *sum);
    else if (!first && last)
        learner_device_add(net->device, net->grads, sum, net->grad_count);
    else if (!first)
        learner_device_add(net->device, sum, net->grads, net->grad_count);
}
