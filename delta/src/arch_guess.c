#include "arch_guess.h"

#include <stdio.h>
#include <string.h>

#define TELLS_MAX 8
#define PERCENT_MAX 1024

struct row {
    const char *name;
    const char *has[2], *lacks[4];
    const char *first; /* convolution of the stem */
    bool percent;      /* of `tells`; else its channels are the width */
    struct {
        const char *tensor;
        uint32_t channels; /* at 100 percent */
    } tells[TELLS_MAX];
};

static const struct row rows[] = {
    {.name = "mobilenet_v2",
     .has = {"features.18.0.weight", "features.1.conv.0.0.weight"},
     .first = "features.0.0.weight",
     .percent = true,
     .tells = {{"features.0.0.weight", 32},
               {"features.1.conv.1.weight", 16},
               {"features.2.conv.2.weight", 24},
               {"features.7.conv.2.weight", 64},
               {"features.11.conv.2.weight", 96},
               {"features.14.conv.2.weight", 160},
               {"features.17.conv.2.weight", 320},
               {"features.18.0.weight", 1280}}},
    {.name = "resnet18",
     .has = {"layer4.1.conv2.weight", "layer1.0.conv1.weight"},
     .lacks = {"layer1.2.conv1.weight", "layer1.0.conv3.weight"},
     .first = "conv1.weight"},
    {.name = "resnet20",
     .has = {"layer3.2.conv2.weight", "layer1.0.conv1.weight"},
     .lacks = {"layer4.0.conv1.weight", "layer1.0.conv3.weight", "layer1.3.conv1.weight"},
     .first = "conv1.weight"},
};
#define ROW_COUNT (sizeof rows / sizeof rows[0])

static uint64_t dim(const struct delta_model *model, const char *name, uint32_t index)
{
    const struct delta_tensor *tensor = delta_model_find(model, name);

    return tensor && index < tensor->rank ? tensor->shape[index] : 0;
}

static bool matches(const struct row *row, const struct delta_model *model)
{
    for (size_t i = 0; i < sizeof row->has / sizeof row->has[0]; i++)
        if (!delta_model_find(model, row->has[i]))
            return false;
    for (size_t i = 0; i < sizeof row->lacks / sizeof row->lacks[0] && row->lacks[i]; i++)
        if (delta_model_find(model, row->lacks[i]))
            return false;
    return true;
}

/* torchvision's _make_divisible(channels * percent / 100, 8); learner/src/arch.c has the same. The
 * convolution before the mean is never narrower than at 100 percent. */
static uint64_t scaled(uint32_t channels, uint32_t percent)
{
    const double wanted = channels * ((channels == 1280 && percent < 100 ? 100 : percent) / 100.0);
    uint64_t made = (uint64_t)(wanted + 4) / 8 * 8;

    if (made < 8)
        made = 8;
    return (double)made < 0.9 * wanted ? made + 8 : made;
}

static bool percent_fits(const struct row *row, const struct delta_model *model, uint32_t percent)
{
    for (size_t i = 0; i < TELLS_MAX; i++)
        if (dim(model, row->tells[i].tensor, 0) != scaled(row->tells[i].channels, percent))
            return false;
    return true;
}

/* Several may round to the same channels, so to the same network: the roundest of them. */
static uint32_t guess_percent(const struct row *row, const struct delta_model *model)
{
    static const uint32_t steps[] = {100, 25, 10, 5, 1};

    for (size_t s = 0; s < sizeof steps / sizeof steps[0]; s++)
        for (uint32_t percent = steps[s]; percent <= PERCENT_MAX; percent += steps[s])
            if (percent_fits(row, model, percent))
                return percent;
    return 0;
}

void delta_arch_guess(struct delta_arch *out, const struct delta_model *model)
{
    const struct row *row = NULL;
    uint64_t width = 0, channels = 0, kernel = 0;

    for (size_t i = 0; i < ROW_COUNT && !row; i++)
        if (matches(&rows[i], model))
            row = &rows[i];
    if (row) {
        width = row->percent ? guess_percent(row, model) : dim(model, row->first, 0);
        channels = dim(model, row->first, 1);
        kernel = dim(model, row->first, 2);
    }
    snprintf(out->name, sizeof out->name, "%s", row ? row->name : "");
    snprintf(out->stem, sizeof out->stem, "%s",
             row && (row->percent || kernel == 7) ? "imagenet" : "cifar");
    out->width = width <= 65535 ? (uint32_t)width : 0;
    out->channels = channels >= 1 && channels <= 3 ? (uint32_t)channels : 3;
}

enum delta_status delta_arch_fits(const struct delta_arch *arch, const struct delta_model *model,
                                  struct delta_error *err)
{
    const struct row *row = NULL;

    for (size_t i = 0; i < ROW_COUNT; i++)
        if (strcmp(rows[i].name, arch->name) == 0)
            row = &rows[i];
    if (!row)
        return DELTA_OK;
    for (size_t i = 0; i < sizeof row->has / sizeof row->has[0]; i++)
        if (!delta_model_find(model, row->has[i]))
            return delta_fail(err, DELTA_MISMATCH, "%s has a tensor '%s', this file has none",
                              arch->name, row->has[i]);
    const struct delta_tensor *first = delta_model_find(model, row->first);
    if (!first || first->rank != 4)
        return delta_fail(err, DELTA_MISMATCH, "%s has a tensor '%s' of rank 4, this file has none",
                          arch->name, row->first);
    const uint64_t width = row->percent ? scaled(row->tells[0].channels, arch->width) : arch->width;
    const uint64_t kernel = !row->percent && strcmp(arch->stem, "imagenet") == 0 ? 7 : 3;
    if (first->shape[0] == width && first->shape[2] == kernel && first->shape[3] == kernel)
        return DELTA_OK;
    return delta_fail(
        err, DELTA_MISMATCH,
        "tensor '%s': %s of width %u with the %s stem has shape [%llu, %u, %llu, %llu], found "
        "[%llu, %llu, %llu, %llu]",
        row->first, arch->name, arch->width, arch->stem, (unsigned long long)width, arch->channels,
        (unsigned long long)kernel, (unsigned long long)kernel, (unsigned long long)first->shape[0],
        (unsigned long long)first->shape[1], (unsigned long long)first->shape[2],
        (unsigned long long)first->shape[3]);
}
