/* Procedural images for where no data set is at hand: a class is a shape with a preferred, broad
 * range of colours; position, size, turn, background, clutter, occlusion and noise vary.
 * The same spec gives the same bytes on every machine with IEEE arithmetic and one libm; training
 * and test images come from different streams of the seed. */
#include "rng.h"
#include "shapes.h"
#include "sources.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIDE 32
#define DEFAULT_CLASSES 24
#define MAX_PER_CLASS 10000
#define HUE_SPREAD 0.14 /* standard deviation; centres of neighbours lie 0.02 to 0.05 apart */

struct spec {
    size_t classes, train, test;
    uint64_t seed;
};

struct colour {
    double r, g, b;
};

static struct colour from_hue(double hue, double saturation, double value)
{
    double part[3];

    for (int c = 0; c < 3; c++) {
        const double k = fmod((hue - floor(hue)) * 6 + 5 - 2 * c, 6);
        const double ramp = fmax(0, fmin(fmin(k, 4 - k), 1));
        part[c] = value * (1 - saturation * ramp);
    }
    return (struct colour){part[0], part[1], part[2]};
}

static struct colour mix(struct colour a, struct colour b, double share)
{
    return (struct colour){a.r + (b.r - a.r) * share, a.g + (b.g - a.g) * share,
                           a.b + (b.b - a.b) * share};
}

static struct colour any_colour(struct learner_rng *rng)
{
    return from_hue(learner_rng_uniform(rng), learner_rng_between(rng, 0.05, 0.6),
                    learner_rng_between(rng, 0.15, 0.95));
}

/* A background: gradient of two colours at an angle. */
static void paint_ground(struct colour *canvas, struct learner_rng *rng)
{
    const struct colour one = any_colour(rng);
    const struct colour two = mix(one, any_colour(rng), 0.6);
    const double angle = learner_rng_between(rng, 0, 6.2831853);
    const double dx = cos(angle) / SIDE, dy = sin(angle) / SIDE;

    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++)
            canvas[y * SIDE + x] =
                mix(one, two, 0.5 + dx * (x - SIDE / 2.0) + dy * (y - SIDE / 2.0));
}

/* Soft blobs and bars that belong to no class. */
static void paint_clutter(struct colour *canvas, struct learner_rng *rng, int pieces)
{
    for (int piece = 0; piece < pieces; piece++) {
        const double cx = learner_rng_between(rng, 0, SIDE), cy = learner_rng_between(rng, 0, SIDE);
        const double angle = learner_rng_between(rng, 0, 3.1415927);
        const double length = learner_rng_between(rng, 2, 7);
        const double breadth = learner_rng_between(rng, 0.7, 2.2);
        const struct colour colour = any_colour(rng);
        for (int y = 0; y < SIDE; y++)
            for (int x = 0; x < SIDE; x++) {
                const double a = (x - cx) * cos(angle) + (y - cy) * sin(angle);
                const double b = (y - cy) * cos(angle) - (x - cx) * sin(angle);
                if (a * a / (length * length) + b * b / (breadth * breadth) < 1)
                    canvas[y * SIDE + x] = mix(canvas[y * SIDE + x], colour, 0.75);
            }
    }
}

/* How much of the pixel at (x, y) the turned, scaled, moved shape covers, 0..1. */
static double coverage(const struct learner_shape *shape, double x, double y, const double turn[4])
{
    int hits = 0;

    for (int s = 0; s < 4; s++) {
        const double px = x + 0.25 + 0.5 * (s % 2), py = y + 0.25 + 0.5 * (s >> 1);
        const double u = turn[0] * px + turn[1] * py + turn[2];
        const double v = turn[0] * py - turn[1] * px + turn[3];
        hits += fabs(u) <= 1 && fabs(v) <= 1 && shape->inside(u, v);
    }
    return hits / 4.0;
}

static void paint_shape(struct colour *canvas, const struct learner_shape *shape,
                        struct learner_rng *rng)
{
    const double size = learner_rng_between(rng, 7, 13);
    const double angle = learner_rng_between(rng, -0.5, 0.5);
    const double cx = SIDE / 2.0 + learner_rng_between(rng, -1, 1) * (SIDE / 2.0 - size + 2);
    const double cy = SIDE / 2.0 + learner_rng_between(rng, -1, 1) * (SIDE / 2.0 - size + 2);
    const double hue = shape->hue + HUE_SPREAD * learner_rng_normal(rng);
    const double saturation = learner_rng_between(rng, 0.45, 1);
    const struct colour light = from_hue(hue, saturation, learner_rng_between(rng, 0.6, 1));
    const struct colour dark = mix(light, from_hue(hue, saturation, 0.3), 0.6);
    const double ripple = learner_rng_between(rng, 0, 1.2);
    const double co = cos(angle) / size, si = sin(angle) / size;
    const double turn[4] = {co, si, -(co * cx + si * cy), -(co * cy - si * cx)};

    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++) {
            const double shade = 0.5 + 0.5 * sin(ripple * (x + y * 0.6) + hue * 20);
            struct colour *at = &canvas[y * SIDE + x];
            *at = mix(*at, mix(light, dark, shade * 0.7), coverage(shape, x, y, turn));
        }
}

static uint8_t to_byte(double value)
{
    const double scaled = value * 255 + 0.5;

    return (uint8_t)(scaled < 0 ? 0 : scaled > 255 ? 255 : scaled);
}

static void paint(uint8_t *out, const struct learner_shape *shape, struct learner_rng *rng)
{
    struct colour canvas[SIDE * SIDE];
    const double noise = learner_rng_between(rng, 0.03, 0.13);

    paint_ground(canvas, rng);
    paint_clutter(canvas, rng, 1 + (int)learner_rng_below(rng, 5));
    paint_shape(canvas, shape, rng);
    paint_clutter(canvas, rng, (int)learner_rng_below(rng, 4)); /* in front: occlusion */
    for (int p = 0; p < SIDE * SIDE; p++) {
        const double grain = noise * learner_rng_normal(rng);
        out[p] = to_byte(canvas[p].r + grain);
        out[SIDE * SIDE + p] = to_byte(canvas[p].g + grain);
        out[2 * SIDE * SIDE + p] = to_byte(canvas[p].b + grain);
    }
}

static enum delta_status set_key(struct spec *spec, const char *key, size_t key_len,
                                 const char *value, struct delta_error *err)
{
    char name[16] = "";
    char *end;

    if (key_len < sizeof name) {
        memcpy(name, key, key_len);
        name[key_len] = '\0';
    }
    const unsigned long long number = strtoull(value, &end, 10);
    if (end == value || (*end && *end != ',') || *value == '-')
        return delta_fail(err, DELTA_CONFIG, "synthetic: '%s' needs a whole number", name);
    if (strcmp(name, "seed") == 0) {
        spec->seed = number;
        return DELTA_OK;
    }
    size_t *field = strcmp(name, "classes") == 0 ? &spec->classes
                    : strcmp(name, "train") == 0 ? &spec->train
                    : strcmp(name, "test") == 0  ? &spec->test
                                                 : NULL;
    const size_t max = field == &spec->classes ? learner_shape_count : MAX_PER_CLASS;
    if (!field)
        return delta_fail(err, DELTA_CONFIG,
                          "synthetic: '%.*s' is unknown; there are classes, train, test, seed",
                          (int)(key_len < 32 ? key_len : 32), key);
    if (number < 1 || number > max)
        return delta_fail(err, DELTA_LIMIT, "synthetic: %s must be within 1 and %zu", name, max);
    *field = (size_t)number;
    return DELTA_OK;
}

static enum delta_status parse(struct spec *spec, const char *text, struct delta_error *err)
{
    enum delta_status st = DELTA_OK;

    *spec = (struct spec){DEFAULT_CLASSES, 200, 50, 1};
    while (!st && *text) {
        const char *equals = strchr(text, '=');
        const char *comma = strchr(text, ',');
        if (!equals || (comma && comma < equals))
            return delta_fail(err, DELTA_CONFIG, "synthetic: '%.40s' is not key=value", text);
        st = set_key(spec, text, (size_t)(equals - text), equals + 1, err);
        text = comma ? comma + 1 : text + strlen(text);
    }
    return st;
}

enum delta_status learner_synthetic_open(struct learner_samples *out, const char *text,
                                         enum learner_split split, struct delta_error *err)
{
    struct learner_samples made = LEARNER_SAMPLES_INIT;
    struct learner_rng rng;
    struct spec spec;
    enum delta_status st = parse(&spec, text, err);

    if (st)
        return st;
    const size_t each = split == LEARNER_SPLIT_TRAIN ? spec.train : spec.test;
    st = learner_samples_reserve(&made, 3, SIDE, SIDE, spec.classes * each, spec.classes, err);
    if (st)
        return st;
    for (size_t k = 0; k < spec.classes; k++) {
        snprintf(made.classes[k].text, sizeof made.classes[k].text, "%s", learner_shapes[k].name);
        learner_rng_init(&rng, spec.seed, 2 * k + (split == LEARNER_SPLIT_TEST));
        for (size_t i = 0; i < each; i++) {
            const size_t at = k * each + i;
            paint(made.pixels + at * 3 * SIDE * SIDE, &learner_shapes[k], &rng);
            made.labels[at] = (int32_t)k;
        }
    }
    *out = made;
    return DELTA_OK;
}
