/* A device inside the test: an enrolled directory, a release key, a fake coordinator, and jobs that
 * run in this process and do as they are told. No BLAS, no TLS, no sleeping. */
#ifndef FAKE_DEVICE_H
#define FAKE_DEVICE_H

#include "core.h"
#include "fake_coord.h"
#include "harness.h"

struct device {
    struct harness_scratch scratch;
    char dir[300];
    struct fake_coord fake;
    struct agent_env env;
    struct agent_options options;
    struct delta_key release, stranger;
    struct delta_channel channel; /* as published last */
    struct delta_buf last_model;  /* unsigned image of the version published last */
};

/* What the jobs of this process are to do and did. */
struct device_jobs {
    enum delta_status learn_status, check_status;
    char refuse_class[64]; /* this one is not learned */
    unsigned learned, checked, adopted;
    char last_classes[256]; /* of the last learning, blank-separated */
};
extern struct device_jobs device_jobs;

void device_init(struct device *device);
void device_release(struct device *device);

/* A model with these classes (blank-separated) whose first weight is `value`. */
void device_model(struct delta_model *out, const char *classes, float value);

enum device_publish {
    DEVICE_PLAIN = 0,
    DEVICE_NO_EDGE = 1,      /* whole model only */
    DEVICE_BAD_DELTA = 2,    /* signed by a stranger */
    DEVICE_BAD_MODEL = 4,    /* likewise */
    DEVICE_BAD_DOCUMENT = 8, /* likewise */
    DEVICE_LYING_DELTA = 16, /* leads to another version than the document says */
};
/* Puts a version out; the edge leads from the version published before. Change device->channel
 * afterwards and call device_seal() for other documents. */
struct delta_digest device_publish(struct device *device, const char *classes, float value,
                                   unsigned how);
void device_seal(struct device *device, const struct delta_key *key);

/* Starts an agent on the directory and lets it run until nothing is left to do. */
enum delta_status device_run(struct device *device, struct delta_error *err);
/* Loads what the directory holds; agent_core_release() it, free it. */
struct agent *device_open(struct device *device);

/* n files in inbox/<folder>. */
void device_drop(struct device *device, const char *folder, int images);

#endif
