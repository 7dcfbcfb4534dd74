#include "network_table.h"

const char *const learner_stem_names[LEARNER_STEM_COUNT] = {"cifar", "imagenet"};

/* He et al. 2016, "Deep residual learning for image recognition", figure 5 left. */
static const struct learner_block_row basic_block = {
    .convs = {{"conv1", "bn1", .kernel = 3, .strides = true, .act = LEARNER_ACT_RELU},
              {"conv2", "bn2", .kernel = 3, .act = LEARNER_ACT_RELU}},
    .conv_count = 2,
    .shortcut = "downsample.0",
    .shortcut_norm = "downsample.1"};

/* Sandler et al. 2018, "MobileNetV2: inverted residuals and linear bottlenecks", table 1 ... */
static const struct learner_block_row inverted_block = {
    .convs = {{"conv.0.0", "conv.0.1", .kernel = 1, .wide = true, .act = LEARNER_ACT_RELU6},
              {"conv.1.0", "conv.1.1", .kernel = 3, .wide = true, .strides = true,
               .depthwise = true, .act = LEARNER_ACT_RELU6},
              {"conv.2", "conv.3", .kernel = 1, .act = LEARNER_ACT_NONE}},
    .conv_count = 3};

/* ... and what remains of it at expansion 1. */
static const struct learner_block_row separable_block = {
    .convs = {{"conv.0.0", "conv.0.1", .kernel = 3, .wide = true, .strides = true,
               .depthwise = true, .act = LEARNER_ACT_RELU6},
              {"conv.1", "conv.2", .kernel = 1, .act = LEARNER_ACT_NONE}},
    .conv_count = 2};

/* clang-format off */
const struct learner_network_row learner_networks[] = {
    /* torchvision's names. ImageNet: 7x7, stride 2, max-pool; CIFAR: 3x3, stride 1. */
    {.name = "resnet18", .text = "ResNet-18", .unit = LEARNER_WIDTH_CHANNELS, .width = 16,
     .stem = {"conv1", "bn1", 1, LEARNER_ACT_RELU, {{3, 1, false}, {7, 2, true}}},
     .prefix = "layer",
     .stages = {{&basic_block, 1, 2, 1, {1, 1}},
                {&basic_block, 2, 2, 1, {2, 2}},
                {&basic_block, 4, 2, 1, {2, 2}},
                {&basic_block, 8, 2, 1, {2, 2}}},
     .stage_count = 4, .head = "fc"},
    /* He et al. 2016, section 4.2, with option B: where shapes differ, the shortcut is a 1x1
     * convolution with a batch norm (the paper's CIFAR nets pad with zeros, option A, which is no
     * layer that could carry weights). torchvision has no ResNet-20; names as if it had. */
    {.name = "resnet20", .text = "ResNet-20", .unit = LEARNER_WIDTH_CHANNELS, .width = 16,
     .stem = {"conv1", "bn1", 1, LEARNER_ACT_RELU, {{3, 1, false}, {0}}},
     .prefix = "layer",
     .stages = {{&basic_block, 1, 3, 1, {1, 0}},
                {&basic_block, 2, 3, 1, {2, 0}},
                {&basic_block, 4, 3, 1, {2, 0}}},
     .stage_count = 3, .head = "fc"},
    /* Sandler et al. 2018, table 2; names, rounding and initialisation as torchvision's, strides
     * for CIFAR as in github.com/kuangliu/pytorch-cifar (stem and second stage keep the plane).
     * torchvision's dropout before the classifier is not used. */
    {.name = "mobilenet_v2", .text = "MobileNetV2", .unit = LEARNER_WIDTH_PERCENT, .width = 100,
     .stem = {"features.0.0", "features.0.1", 32, LEARNER_ACT_RELU6,
              {{3, 1, false}, {3, 2, false}}},
     .prefix = "features.", .counts_on = true,
     .stages = {{&separable_block, 16, 1, 1, {1, 1}},
                {&inverted_block,  24, 2, 6, {1, 2}},
                {&inverted_block,  32, 3, 6, {2, 2}},
                {&inverted_block,  64, 4, 6, {2, 2}},
                {&inverted_block,  96, 3, 6, {1, 1}},
                {&inverted_block, 160, 3, 6, {2, 2}},
                {&inverted_block, 320, 1, 6, {1, 1}}},
     .stage_count = 7,
     .last = {"features.18.0", "features.18.1", 1280, LEARNER_ACT_RELU6},
     .head = "classifier.1", .head_std = 0.01},
};
/* clang-format on */

const size_t learner_network_count = sizeof learner_networks / sizeof *learner_networks;
