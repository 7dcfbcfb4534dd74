/* A coordinator inside the test: answers exchanges from memory, misbehaves on demand, and moves a
 * clock instead of sleeping. */
#ifndef FAKE_COORD_H
#define FAKE_COORD_H

#include "coord.h"

struct fake_blob {
    struct delta_digest id;
    struct delta_buf bytes;
};

struct fake_coord {
    /* The clock: advanced by sleeping. */
    int64_t now_ms;
    int64_t slept_ms;
    unsigned sleeps;
    bool stop;
    uint32_t random;
    /* What is served. */
    struct delta_buf document; /* sealed */
    struct fake_blob blobs[8];
    size_t blob_count;
    bool no_ranges;
    /* What arrived. */
    struct delta_buf upload;
    uint64_t upload_size;
    enum agent_verdict verdict;
    bool admitted;
    unsigned reports;
    struct agent_report last_report;
    unsigned exchanges, polls, blob_gets, puts;
    /* Misbehaviour. */
    unsigned fail_next; /* so many exchanges end in `fail_status` */
    enum delta_status fail_status;
    unsigned busy_next; /* so many get 503 with this Retry-After */
    int64_t busy_after_ms;
    uint64_t break_after; /* a download breaks off after so many bytes, once */
    unsigned refuse_code; /* every PUT gets this HTTP status with BASE_UNKNOWN */
    bool flip;            /* downloads have a wrong bit */
    bool lose_put_answer; /* the next PUT is taken, its answer lost */
    char pieces[512];     /* log of requests: "GET 0,PUT 0-3," */
};

void fake_coord_init(struct fake_coord *fake);
void fake_coord_release(struct fake_coord *fake);
struct agent_transport fake_coord_transport(struct fake_coord *fake);
struct agent_env fake_coord_env(struct fake_coord *fake);
/* Copies; *id = its SHA-256. */
void fake_coord_add_blob(struct fake_coord *fake, struct delta_bytes bytes,
                         struct delta_digest *id);

#endif
