/* The networks, as data; arch.c turns a row into layers. A network of known blocks is one more row
 * of `learner_networks` in network_table.c (and of the table in delta/src/arch_guess.c, if foreign
 * files of it shall be recognised); a new kind of block is one more table of convolutions.
 * Everything is constant; any thread may read it. */
#ifndef LEARNER_NETWORK_TABLE_H
#define LEARNER_NETWORK_TABLE_H

#include "device.h"

/* How a picture enters: at 32 pixels a side, or at 224 with early down-sampling. */
enum learner_stem { LEARNER_STEM_CIFAR, LEARNER_STEM_IMAGENET, LEARNER_STEM_COUNT };

extern const char *const learner_stem_names[LEARNER_STEM_COUNT];

/* What `width` of struct delta_arch counts, and so what the channels in a row mean. */
enum learner_width_unit {
    LEARNER_WIDTH_CHANNELS, /* channels of the first stage; a row's channels are multiples of it */
    LEARNER_WIDTH_PERCENT   /* of the row's channels, rounded to multiples of 8 */
};

#define LEARNER_BLOCK_CONVS 3
#define LEARNER_STAGES_MAX 7

/* Kernels are odd, the padding is half of them: stride 1 keeps the plane. */
struct learner_conv_row {
    const char *name, *norm; /* behind the block's prefix */
    size_t kernel;
    bool wide;    /* gives expand x the block's input channels; else the stage's channels */
    bool strides; /* has the block's stride; the others have 1 */
    bool depthwise;
    enum learner_act act; /* of the last one: after the residual is added */
};

struct learner_block_row {
    struct learner_conv_row convs[LEARNER_BLOCK_CONVS];
    size_t conv_count;
    /* 1x1 convolution and norm on the residual path where shapes differ; NULL: no residual there */
    const char *shortcut, *shortcut_norm;
};

struct learner_stage_row {
    const struct learner_block_row *block;
    size_t channels, blocks, expand;
    size_t stride[LEARNER_STEM_COUNT]; /* of the first block */
};

struct learner_network_row {
    const char *name, *text;
    enum learner_width_unit unit;
    uint32_t width; /* where none is asked for: what a small device can train */
    struct {
        const char *name, *norm;
        size_t channels;
        enum learner_act act;
        struct {
            size_t kernel, stride; /* 0: the network has no such stem */
            bool max_pool;         /* 3x3, stride 2 */
        } of[LEARNER_STEM_COUNT];
    } stem;
    /* a block's prefix: "layer1.0." (stage from 1, block from 0) or "features.1." (counts on) */
    const char *prefix;
    bool counts_on;
    struct learner_stage_row stages[LEARNER_STAGES_MAX];
    size_t stage_count;
    struct {
        const char *name, *norm; /* NULL: none. Never narrower than at 100 percent */
        size_t channels;
        enum learner_act act;
    } last; /* 1x1 convolution before the mean */
    const char *head;
    double head_std; /* normal with a zero bias; 0: uniform within 1/sqrt(in), bias too */
};

extern const struct learner_network_row learner_networks[];
extern const size_t learner_network_count;

#endif
