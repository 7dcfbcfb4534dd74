#include "learner/networks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arch.h"
#include "network_table.h"

_Static_assert(LEARNER_NETWORK_STEMS == LEARNER_STEM_COUNT, "a stem more: adapt networks.h");

static const double cifar_mean[3] = {0.5071, 0.4865, 0.4409};
static const double cifar_std[3] = {0.2673, 0.2564, 0.2762};
static const double imagenet_mean[3] = {0.485, 0.456, 0.406};
static const double imagenet_std[3] = {0.229, 0.224, 0.225};

bool learner_network_info(struct learner_network_info *out, size_t index)
{
    size_t stems = 0;

    if (index >= learner_network_count)
        return false;
    const struct learner_network_row *row = &learner_networks[index];
    *out = (struct learner_network_info){.name = row->name,
                                         .text = row->text,
                                         .width = row->width,
                                         .percent = row->unit == LEARNER_WIDTH_PERCENT};
    for (size_t i = 0; i < LEARNER_STEM_COUNT; i++)
        if (row->stem.of[i].kernel)
            out->stems[stems++] = learner_stem_names[i];
    return true;
}

enum delta_status learner_network_arch(struct delta_arch *out, const char *name, const char *stem,
                                       uint32_t width, uint32_t channels, uint32_t height,
                                       uint32_t image_width, struct delta_error *err)
{
    struct learner_network_cost ignored;
    struct delta_arch arch = {
        .width = width, .channels = channels, .height = height, .image_width = image_width};
    enum delta_status st;

    snprintf(arch.name, sizeof arch.name, "%s", name);
    snprintf(arch.stem, sizeof arch.stem, "%s",
             stem ? stem : learner_stem_names[LEARNER_STEM_CIFAR]);
    for (size_t i = 0; !width && i < learner_network_count; i++)
        if (!strcmp(arch.name, learner_networks[i].name))
            arch.width = learner_networks[i].width;
    if (!arch.width)
        arch.width = 1; /* an unknown name, which is refused below */
    const bool imagenet = !strcmp(arch.stem, learner_stem_names[LEARNER_STEM_IMAGENET]);
    memcpy(arch.mean, imagenet ? imagenet_mean : cifar_mean, sizeof arch.mean);
    memcpy(arch.std, imagenet ? imagenet_std : cifar_std, sizeof arch.std);
    st = learner_network_cost(&ignored, &arch, 1, err);
    if (!st)
        *out = arch;
    return st;
}

enum delta_status learner_network_cost(struct learner_network_cost *out,
                                       const struct delta_arch *arch, size_t class_count,
                                       struct delta_error *err)
{
    struct learner_layers *layers = delta_calloc(1, sizeof *layers);
    struct learner_network_cost cost = {0};
    enum delta_status st;

    if (!layers)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for a network");
    st = learner_arch_layers(layers, arch, class_count, err);
    for (size_t l = 0; !st && l < layers->count; l++) {
        const struct learner_layer *layer = &layers->items[l];
        const size_t area = layer->out.h * layer->out.w;
        size_t weights = layer->out.c * (layer->in.c / layer->groups);
        if (layer->kind == LEARNER_LAYER_CONV) {
            weights *= layer->kernel * layer->kernel;
            cost.parameters += weights + 2 * layer->out.c;
            cost.statistics += 2 * layer->out.c;
            cost.macs += (double)weights * (double)area;
        } else if (layer->kind == LEARNER_LAYER_HEAD) {
            cost.parameters += weights + layer->out.c;
            cost.macs += (double)weights;
        }
    }
    free(layers);
    if (!st)
        *out = cost;
    return st;
}
