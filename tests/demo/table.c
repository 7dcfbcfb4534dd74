/* The result as tables for people or one JSON object. */
#include <stdio.h>
#include <string.h>

#include "delta/cli.h"
#include "demo.h"

/* A class counts as recognised when at least this share of its test images is classified as it. */
#define RECOGNISED_PERCENT 20.0

static const char *const kinds[] = {"enrolment", "poll",         "model",
                                    "delta",     "contribution", "report"};
#define KINDS (sizeof kinds / sizeof kinds[0])

static void score_cells(const struct demo_score *score)
{
    if (score->classes == 0)
        printf("       -      -      -");
    else
        printf("  %6.2f %6.2f %6.2f", score->old, score->fresh[0], score->fresh[1]);
}

static void print_scores(const struct demo *demo, const struct demo_result *result)
{
    printf(
        "\nAccuracy in %%: old = %zu base classes, A = '%s', B = '%s' (test images, %lld a class "
        "at most)\n\n",
        demo->base_classes, demo->new_class[0], demo->new_class[1], (long long)demo->limit_old);
    printf("                        before         after local learning    after fleet update\n");
    printf("device    samples     old      A      B     old      A      B     old      A      B\n");
    for (size_t i = 0; i < DEMO_DEVICES; i++) {
        char samples[24] = "none";
        if (i < DEMO_NEW)
            snprintf(samples, sizeof samples, "%lld x %c", (long long)demo->samples,
                     (char)('A' + (int)i));
        printf("%-9s %-8s", demo->fleet.devices[i].name, samples);
        score_cells(&result->before);
        score_cells(&result->local[i]);
        score_cells(&result->fleet[i]);
        printf("\n");
    }
}

static json_int_t bytes_of(const json_t *status, const char *kind, const char *direction)
{
    return json_integer_value(
        json_object_get(json_object_get(json_object_get(status, "bytes"), kind), direction));
}

static void print_bytes(const struct demo *demo, const struct demo_result *result)
{
    printf("\nBytes that travelled per device, HTTP headers included (full model: %.0f bytes)\n\n",
           demo->model_bytes);
    printf("device    direction");
    for (size_t k = 0; k < KINDS; k++)
        printf(" %12s", kinds[k]);
    printf("\n");
    for (size_t i = 0; i < DEMO_DEVICES; i++) {
        static const char *const directions[] = {"up", "down"};
        for (size_t d = 0; d < 2; d++) {
            printf("%-9s %-9s", d ? "" : demo->fleet.devices[i].name, directions[d]);
            for (size_t k = 0; k < KINDS; k++)
                printf(" %12lld", (long long)bytes_of(result->status[i], kinds[k], directions[d]));
            printf("\n");
        }
    }
    const double up = (double)bytes_of(result->status[0], "contribution", "up");
    const double down = (double)bytes_of(result->status[2], "delta", "down");
    if (demo->model_bytes > 0)
        printf("\nA contribution is %.2f %% of the full model, the fleet update %.2f %%.\n",
               100 * up / demo->model_bytes, 100 * down / demo->model_bytes);
    printf("Learning took %.1f s from the drop, the whole fleet was updated after %.1f s.\n",
           result->learn_seconds, result->update_seconds);
}

static json_t *score_json(const struct demo *demo, const struct demo_score *score)
{
    json_t *json = json_object();

    if (score->classes == 0) {
        json_decref(json);
        return json_null();
    }
    json_object_set_new(json, "old", json_real(score->old));
    for (size_t k = 0; k < DEMO_NEW; k++)
        json_object_set_new(json, demo->new_class[k], json_real(score->fresh[k]));
    return json;
}

static void print_json(const struct demo *demo, const struct demo_result *result, bool recognised)
{
    json_t *json = json_object();
    json_t *devices = json_array();

    for (size_t i = 0; i < DEMO_DEVICES; i++) {
        json_t *device = json_object();
        json_object_set_new(device, "name", json_string(demo->fleet.devices[i].name));
        json_object_set_new(device, "before", score_json(demo, &result->before));
        json_object_set_new(device, "local", score_json(demo, &result->local[i]));
        json_object_set_new(device, "fleet", score_json(demo, &result->fleet[i]));
        json_object_set(device, "bytes", json_object_get(result->status[i], "bytes"));
        json_array_append_new(devices, device);
    }
    json_object_set_new(json, "schema", json_integer(1));
    json_object_set_new(json, "data", json_string(demo->data_source));
    json_object_set_new(json, "base", json_string(demo->base_origin));
    json_object_set_new(json, "model_bytes", json_real(demo->model_bytes));
    json_object_set_new(json, "learn_seconds", json_real(result->learn_seconds));
    json_object_set_new(json, "update_seconds", json_real(result->update_seconds));
    json_object_set_new(json, "recognised", json_boolean(recognised));
    json_object_set_new(json, "devices", devices);
    json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    printf("\n");
    json_decref(json);
}

bool demo_table(const struct demo *demo, const struct demo_result *result)
{
    bool recognised = true;

    for (size_t i = 0; i < DEMO_DEVICES; i++)
        for (size_t k = 0; k < DEMO_NEW; k++)
            recognised = recognised && result->fleet[i].fresh[k] >= RECOGNISED_PERCENT;
    if (demo->json) {
        print_json(demo, result, recognised);
        return recognised;
    }
    printf("\nBase: %s\n", demo->base_origin);
    print_scores(demo, result);
    print_bytes(demo, result);
    printf("%s\n", recognised
                       ? "All three devices recognise both new classes; the third got no sample."
                       : "FAILED: a device does not recognise a new class.");
    return recognised;
}
