/* The inbox: folders inbox/<class>/ with images. A class is ready when it holds enough images and
 * nothing in it changed for a while. Looks at names, sizes and times only; reads no image, deletes
 * and moves nothing. What is wrong is said in `complaint`, to be passed on once. */
#ifndef AGENT_INBOX_H
#define AGENT_INBOX_H

#include "delta/class_id.h"
#include "delta/hash.h"
#include "env.h"

#define AGENT_INBOX_MAX 256      /* folders looked at */
#define AGENT_INBOX_IMAGES 10000 /* images counted in one */

struct agent_inbox_class {
    char folder[256];
    struct delta_class_id id; /* "" when the folder's name makes none */
    size_t images;
    struct delta_digest content; /* of names, sizes and times */
    int64_t since_ms;            /* unchanged since (monotonic) */
    bool seen;                   /* in the scan under way */
    bool too_many;
    bool settled;
    bool ready;
    char complaint[240]; /* "" = none; with the remedy */
};

struct agent_inbox {
    size_t min_images;
    int64_t settle_ms;
    struct agent_inbox_class *classes; /* owned, sorted by folder */
    size_t count;
    bool unsettled; /* something changed a moment ago: look again soon */
};

void agent_inbox_init(struct agent_inbox *inbox, size_t min_images, int64_t settle_ms);
void agent_inbox_release(struct agent_inbox *inbox);

/* Looks again.  fails: IO, NO_MEMORY; an inbox that is missing is made */
DELTA_MUST_USE enum delta_status agent_inbox_scan(struct agent_inbox *inbox, const char *dir,
                                                  const struct agent_env *env,
                                                  struct delta_error *err);

#endif
