/* What the verbs of frostline-learn share: options that several take, models with their outputs
 * named, class lists from a command line, and the budget. Part of a program: it prints. */
#ifndef LEARNER_VERBS_H
#define LEARNER_VERBS_H

#include <jansson.h>

#include "delta/cli.h"
#include "learner/learn.h"

#define LEARNER_PROGRAM "frostline-learn"

/* The options of the table below; zero-initialise with LEARNER_COMMON_INIT. */
struct learner_common {
    const char *device, *precision;
    int64_t threads;
    int64_t seed;
    int64_t memory_mb;
    double time_s;
    bool json;
    /* filled by learner_common_budget */
    struct learner_budget budget;
    struct delta_progress progress;
    char place[32]; /* device and precision as a net wants them */
    char stage[64];
    const char *verb;
    size_t planned_bytes, at_once; /* what was told before learning began; 0: nothing */
};

#define LEARNER_COMMON_INIT                                                                        \
    {                                                                                              \
        .device = "auto", .precision = "fp32", .seed = 1                                           \
    }

/* Rows for an option table. */
#define LEARNER_OPT_DEVICE(c)                                                                      \
    {"device",                                                                                     \
     DELTA_OPT_CHOICE,                                                                             \
     &(c).device,                                                                                  \
     .choices = "auto|cpu|cuda|ref|blas",                                                          \
     .help = "where to compute; auto: on an NVIDIA GPU where there is one; blas is the same as "   \
             "cpu, ref slow and exact",                                                            \
     .env = "FROSTLINE_DEVICE"},                                                                   \
        {"precision",                                                                              \
         DELTA_OPT_CHOICE,                                                                         \
         &(c).precision,                                                                           \
         .choices = "fp32|tf32|bf16",                                                              \
         .help = "a GPU's arithmetic; weights are fp32 always, and the CPU's arithmetic too",      \
         .env = "FROSTLINE_PRECISION"},                                                            \
    {                                                                                              \
        .name = "threads", .kind = DELTA_OPT_INT, .value = &(c).threads, .arg = "N",               \
        .help = "threads to use, 0 = all cores", .low = 0, .high = 1024                            \
    }
#define LEARNER_OPT_BUDGET(c)                                                                      \
    {"memory",                                                                                     \
     DELTA_OPT_INT,                                                                                \
     &(c).memory_mb,                                                                               \
     .arg = "MB",                                                                                  \
     .help = "peak memory of this process, in MB of 2^20 bytes; 0: no limit",                      \
     .low = 0,                                                                                     \
     .high = 1e7},                                                                                 \
    {                                                                                              \
        .name = "time", .kind = DELTA_OPT_REAL, .value = &(c).time_s, .arg = "SECONDS",            \
        .help = "time for all of it; 0: no limit", .low = 0, .high = 1e8                           \
    }
#define LEARNER_BUDGET_HELP                                                                        \
    "The peak of memory that is planned is told on stderr before it begins, and as planned_bytes " \
    "with --json. Under --memory fewer images go through the network at once; a budget that is "   \
    "too small is refused, and the smallest that will do is named. "
#define LEARNER_OPT_SEED(c)                                                                        \
    {                                                                                              \
        .name = "seed", .kind = DELTA_OPT_INT, .value = &(c).seed, .arg = "N",                     \
        .help = "seed of everything random", .low = 0, .high = 9e15                                \
    }
#define LEARNER_OPT_JSON(c)                                                                        \
    {                                                                                              \
        .name = "json", .kind = DELTA_OPT_FLAG, .value = &(c).json,                                \
        .help = "print one JSON object"                                                            \
    }
#define LEARNER_DATA_HELP                                                                          \
    "A data SOURCE is a directory with CIFAR-100's binaries (train.bin, test.bin, "                \
    "fine_label_names.txt, or cifar-100-binary/ with them), a directory of class folders with "    \
    "PNG or JPEG images (or with train/ and test/ of such), or "                                   \
    "'synthetic[:classes=N,train=N,test=N,seed=N]', images drawn by a program."

/* The budget that the options ask for, with a progress line; valid as long as *common. The time
 * counts from here: call it first of all. The plan of memory is told on stderr and kept, and so is,
 * once, that there is no GPU where one would have been used. */
const struct learner_budget *learner_common_budget(struct learner_common *common, const char *verb);
/* Adds planned_bytes and images_at_once where something was planned. */
void learner_common_json(const struct learner_common *common, json_t *json);
void learner_common_done(struct learner_common *common); /* ends the progress line */

/* Data-set labels, one a line (a class order); free() *labels.
 *   fails    NOT_FOUND, FORMAT names the line, LIMIT */
DELTA_MUST_USE enum delta_status learner_order_read(long **labels, size_t *count, const char *path,
                                                    struct delta_error *err);

/* The classes of a source in its own order or in that of an order file (may be NULL).
 *   out      free(); *count of them */
DELTA_MUST_USE enum delta_status learner_classes_ordered(struct delta_class_id **out, size_t *count,
                                                         const struct learner_samples *data,
                                                         const char *order_path,
                                                         struct delta_error *err);

/* What --classes means: NULL or "" = all, a number = the first so many, else names with commas. */
DELTA_MUST_USE enum delta_status learner_classes_pick(struct delta_class_id **out, size_t *count,
                                                      const char *text,
                                                      const struct learner_samples *data,
                                                      const char *order_path,
                                                      struct delta_error *err);

/* A model of either kind. Outputs without names (a safetensors file knows none) are named by the
 * labels of an order file or of the file itself, through the data's label names.
 *   outputs  must be the number of outputs; 0 = not told
 *   data     opened here when not NULL, with images as large as the model takes
 *   digest   of the model as named; may be NULL */
DELTA_MUST_USE enum delta_status
learner_model_open(struct delta_model *model, struct learner_samples *data, const char *model_path,
                   const char *source, enum learner_split split, const char *order_path,
                   size_t outputs, struct delta_digest *digest, struct delta_error *err);

/* Only images of classes that the model knows, at most per_class each (0 = all).
 *   fails    NOT_FOUND when there is none */
DELTA_MUST_USE enum delta_status learner_samples_known(struct learner_samples *samples,
                                                       const struct delta_model *model,
                                                       size_t per_class, struct delta_error *err);

/* "blas": what a net of this model really runs on; "" when it cannot be built. */
void learner_device_name(char *out, size_t size, const struct delta_model *model,
                         const struct learner_budget *budget);

/* Prints the object with its schema number on stdout and drops it. */
void learner_print_json(json_t *json);

int learner_cmd_classes(int argc, char **argv);
int learner_cmd_eval(int argc, char **argv);
int learner_cmd_exemplars(int argc, char **argv);
int learner_cmd_experiment(int argc, char **argv);
int learner_cmd_export_images(int argc, char **argv);
int learner_cmd_learn(int argc, char **argv);
int learner_cmd_networks(int argc, char **argv);
int learner_cmd_plan(int argc, char **argv);
int learner_cmd_pretrain(int argc, char **argv);

#endif
