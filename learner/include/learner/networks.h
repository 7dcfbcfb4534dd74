/* The networks that can be trained: names, stems, width, and what one costs. Constant data; any
 * thread may ask. */
#ifndef LEARNER_NETWORKS_H
#define LEARNER_NETWORKS_H

#include "delta/model.h"

#define LEARNER_NETWORK_STEMS 2
#define LEARNER_NETWORK_NAMES "resnet18|resnet20|mobilenet_v2" /* for option tables */
#define LEARNER_STEM_NAMES "cifar|imagenet"

struct learner_network_info {
    const char *name, *text; /* "resnet18", "ResNet-18" */
    uint32_t width;          /* where none is asked for */
    bool percent;            /* the width is percent of the published channels; else channels */
    const char *stems[LEARNER_NETWORK_STEMS + 1]; /* NULL behind the last */
};

/* The network at `index`, from 0; false behind the last. */
bool learner_network_info(struct learner_network_info *out, size_t index);

/* A description for images of that size, normalised as CIFAR-100 or ImageNet, by the stem.
 *   stem     NULL: "cifar"
 *   width    0: the network's default
 *   fails    UNSUPPORTED (name or stem; says which are known), LIMIT */
DELTA_MUST_USE enum delta_status learner_network_arch(struct delta_arch *out, const char *name,
                                                      const char *stem, uint32_t width,
                                                      uint32_t channels, uint32_t height,
                                                      uint32_t image_width,
                                                      struct delta_error *err);

struct learner_network_cost {
    size_t parameters; /* what learns; running statistics not counted */
    size_t statistics;
    double macs; /* multiply-adds of convolutions and the head, for one image */
};

/* fails: UNSUPPORTED, LIMIT, NO_MEMORY */
DELTA_MUST_USE enum delta_status learner_network_cost(struct learner_network_cost *out,
                                                      const struct delta_arch *arch,
                                                      size_t class_count, struct delta_error *err);

#endif
