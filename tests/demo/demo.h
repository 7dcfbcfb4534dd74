/* The demonstration's parts: `stage` prepares data and base, `story` lets the fleet run, `table`
 * tells the result. */
#ifndef DEMO_H
#define DEMO_H

#include "throwaway.h"

#define DEMO_DEVICES 3
#define DEMO_NEW 2

struct demo {
    struct fleet fleet;
    double started;
    bool json;

    /* options */
    const char *data;  /* source string; NULL: found */
    const char *base;  /* model file; NULL: found or trained */
    const char *order; /* class order file; NULL: found or the source's own */
    const char *method;
    int64_t samples;   /* images dropped per new class */
    int64_t limit_old; /* test images per old class */

    /* what `stage` found or made */
    char data_source[FLEET_PATH];
    char order_file[FLEET_PATH];
    char base_origin[FLEET_PATH + 100]; /* for people */
    char base_file[FLEET_PATH];         /* .flm with freeze plan */
    char exemplars[FLEET_PATH];
    char new_class[DEMO_NEW][64];
    size_t base_classes;
    double model_bytes; /* the full .flm */
};

/* Accuracy of one model file on the test split: over its base classes and on each new class;
 * a class that the model does not know has recall 0. Percent. */
struct demo_score {
    double old, fresh[DEMO_NEW];
    size_t classes;
};

struct demo_result {
    struct demo_score before, local[DEMO_DEVICES], fleet[DEMO_DEVICES];
    json_t *status[DEMO_DEVICES]; /* the devices' own status at the end */
    double learn_seconds, update_seconds;
};

/* A line with the time since the start, on stderr. */
void demo_say(const struct demo *demo, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

bool demo_stopped(void); /* the user asked to stop */

bool demo_stage(struct demo *demo);
bool demo_score(struct demo *demo, const char *model_file, struct demo_score *score);
bool demo_story(struct demo *demo, struct demo_result *result);
/* Prints the tables (or one JSON object); true when every device recognises every new class. */
bool demo_table(const struct demo *demo, const struct demo_result *result);

#endif
