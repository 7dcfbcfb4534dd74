/* A model version in memory and its file `.flm`: architecture, tensors, class list, freeze plan.
 *
 * Its name (version digest) is the SHA-256 of its canonical header, which binds every tensor and
 * every freeze bitmap by SHA-256. Same architecture + tensors + classes + plan + parent = same
 * name, on every machine. See delta/FORMAT.md.
 */
#ifndef DELTA_MODEL_H
#define DELTA_MODEL_H

#include "delta/class_id.h"
#include "delta/hash.h"

#define DELTA_TENSOR_NAME_MAX 127
#define DELTA_TENSOR_RANK_MAX 4
#define DELTA_MODEL_MAX_TENSORS 4096
#define DELTA_MODEL_MAX_CLASSES 65535
#define DELTA_MODEL_MAX_BYTES ((size_t)2 << 30)

/* What the learner needs to build the network and to prepare an image. */
struct delta_arch {
    char name[32];     /* "resnet18" */
    char stem[16];     /* "cifar" | "imagenet" */
    uint32_t width;    /* ResNets: channels of the first stage; MobileNetV2: multiplier x 100 */
    uint32_t channels; /* input image: channels, height, width */
    uint32_t height;
    uint32_t image_width;
    double mean[3]; /* input = (pixel/255 - mean) / std, per channel */
    double std[3];
};

enum delta_freeze_mode {
    DELTA_FREEZE_LIVE,   /* no element frozen */
    DELTA_FREEZE_ALL,    /* every element frozen */
    DELTA_FREEZE_ROWS,   /* bit per index of dimension 0 (filter): 1 = frozen */
    DELTA_FREEZE_WEIGHTS /* bit per element: 1 = frozen */
};

/* Elements beyond the bitmap (rows a later version grew) are live. */
struct delta_freeze {
    enum delta_freeze_mode mode;
    uint8_t *bits; /* owned; bit i is bits[i/8] >> (i%8) & 1; NULL for LIVE and ALL */
    size_t count;  /* bits */
};

/* A float32 tensor, row-major, little-endian on disk. */
struct delta_tensor {
    char name[DELTA_TENSOR_NAME_MAX + 1]; /* torchvision's: "layer1.0.conv1.weight" */
    uint32_t rank;                        /* 1..4 */
    uint64_t shape[DELTA_TENSOR_RANK_MAX];
    size_t count; /* elements */
    float *data;  /* owned, 64-byte aligned, [count] */
    struct delta_freeze freeze;
};

struct delta_model {
    struct delta_arch arch;
    struct delta_digest parent; /* zero: none */
    struct delta_tensor *tensors;
    size_t tensor_count;
    struct delta_class_id *classes; /* index = network output */
    size_t class_count;
};

#define DELTA_MODEL_INIT                                                                           \
    {                                                                                              \
        0                                                                                          \
    }

/* Threads: a model belongs to one thread at a time; const use is free for all. */
void delta_model_release(struct delta_model *model);
DELTA_MUST_USE enum delta_status
delta_model_copy(struct delta_model *out, const struct delta_model *model, struct delta_error *err);

/* Appends a zeroed live tensor; *out (may be NULL) stays valid until the next append.
 *   fails    LIMIT (rank, count, name), EXISTS, NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_model_add_tensor(struct delta_model *model, const char *name,
                                                        uint32_t rank, const uint64_t *shape,
                                                        struct delta_tensor **out,
                                                        struct delta_error *err);
struct delta_tensor *delta_model_find(const struct delta_model *model, const char *name);

/* Appends a class id (normalised by the caller's delta_class_id_make).  fails: EXISTS, LIMIT */
DELTA_MUST_USE enum delta_status delta_model_add_class(struct delta_model *model,
                                                       const struct delta_class_id *id,
                                                       struct delta_error *err);
/* Index of a class or -1. */
long delta_model_class_index(const struct delta_model *model, const char *id);

/* The classifier: weight [classes, d] and bias [classes] ("fc.*" or "classifier.1.*").
 *   fails    FORMAT when absent or not shaped like the class list */
DELTA_MUST_USE enum delta_status delta_model_head(const struct delta_model *model,
                                                  struct delta_tensor **weight,
                                                  struct delta_tensor **bias,
                                                  struct delta_error *err);
/* Grows the head by zeroed live rows and the class list by these ids.  fails: EXISTS, ... */
DELTA_MUST_USE enum delta_status delta_model_grow_head(struct delta_model *model,
                                                       const struct delta_class_id *ids,
                                                       size_t count, struct delta_error *err);

/* Freeze plan. set_freeze copies `bits` (count as the mode demands; NULL for LIVE and ALL). */
DELTA_MUST_USE enum delta_status delta_tensor_set_freeze(struct delta_tensor *tensor,
                                                         enum delta_freeze_mode mode,
                                                         const uint8_t *bits, size_t count,
                                                         struct delta_error *err);
bool delta_tensor_is_frozen(const struct delta_tensor *tensor, size_t element);
size_t delta_tensor_live_count(const struct delta_tensor *tensor);

/* NONFINITE names the first tensor and element that is NaN or infinite. */
DELTA_MUST_USE enum delta_status delta_model_check_finite(const struct delta_model *model,
                                                          struct delta_error *err);

/* The version's name. */
DELTA_MUST_USE enum delta_status delta_model_digest(const struct delta_model *model,
                                                    struct delta_digest *out,
                                                    struct delta_error *err);

/* Whole file image, unsigned; sign it with delta_container_sign(). out: initialised here. */
DELTA_MUST_USE enum delta_status delta_model_encode(const struct delta_model *model,
                                                    struct delta_buf *out, struct delta_error *err);
/* Checks structure and every digest, not trust; copies what it needs.
 *   digest   may be NULL; the version's name
 *   fails    TRUNCATED, FORMAT, LIMIT, DIGEST, UNSUPPORTED, NO_MEMORY */
DELTA_MUST_USE enum delta_status delta_model_decode(struct delta_model *out,
                                                    struct delta_bytes file,
                                                    struct delta_digest *digest,
                                                    struct delta_error *err);
DELTA_MUST_USE enum delta_status delta_model_load(struct delta_model *out, const char *path,
                                                  struct delta_digest *digest,
                                                  struct delta_error *err);
DELTA_MUST_USE enum delta_status delta_model_save(const struct delta_model *model, const char *path,
                                                  struct delta_error *err);

#endif
