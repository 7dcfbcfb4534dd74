/* What the device does next, and everything it must remember to do it after a power cut: the table
 * {step, where to go on each outcome}, and the state file, replaced atomically before each action.
 * The table is data; the actions are in install.c and teach.c. No network and no models here. */
#ifndef AGENT_STATE_H
#define AGENT_STATE_H

#include "coord.h"
#include "delta/channel.h"
#include "delta/class_id.h"

#define AGENT_CLASSES_MAX 64
#define AGENT_REJECTED_MAX 16
#define AGENT_EVENTS_MAX 32
#define AGENT_NOTED_MAX 64
/* A step that was entered so often without an outcome is what kills the agent: it is given up. */
#define AGENT_LOOPS_MAX 5

/*    step,     done,     nothing,  refused,  failed */
#define AGENT_STEP_MAP(X)                                                                          \
    X(IDLE, "idle", IDLE, IDLE, IDLE, IDLE)                                                        \
    X(POLL, "poll", DOWNLOAD, IDLE, IDLE, IDLE)                                                    \
    X(DOWNLOAD, "download", VERIFY, DOWNLOAD, REPORT, IDLE)                                        \
    X(VERIFY, "verify", STAGE, DOWNLOAD, REPORT, IDLE)                                             \
    X(STAGE, "stage", CHECK, IDLE, REPORT, IDLE)                                                   \
    X(CHECK, "health-check", COMMIT, IDLE, REPORT, IDLE)                                           \
    X(COMMIT, "commit", ADOPT, IDLE, REPORT, IDLE)                                                 \
    X(ADOPT, "adopt", REPORT, REPORT, REPORT, REPORT)                                              \
    X(REPORT, "report", IDLE, IDLE, IDLE, IDLE)                                                    \
    X(LEARN, "learn", SEAL, IDLE, IDLE, IDLE)                                                      \
    X(SEAL, "seal", UPLOAD, IDLE, IDLE, IDLE)                                                      \
    X(UPLOAD, "upload", AWAIT, IDLE, IDLE, IDLE)                                                   \
    X(AWAIT, "await", IDLE, IDLE, IDLE, IDLE)

enum agent_step {
#define AGENT_STEP_ENUM(name, text, done, nothing, refused, failed) AGENT_##name,
    AGENT_STEP_MAP(AGENT_STEP_ENUM)
#undef AGENT_STEP_ENUM
        AGENT_STEP_COUNT
};

enum agent_outcome {
    AGENT_OUTCOME_DONE,
    AGENT_OUTCOME_NOTHING, /* nothing to do here, or another way is to be tried */
    AGENT_OUTCOME_REFUSED, /* the bytes are wrong or a check said no: never the same again */
    AGENT_OUTCOME_FAILED,  /* network or machine: later may work */
    AGENT_OUTCOME_STOPPED  /* asked to stop: the step is repeated at the next start */
};

const char *agent_step_name(enum agent_step step);
enum agent_step agent_step_next(enum agent_step step, enum agent_outcome outcome);
/* By the class of a failure: NET and ENV fail, the rest is refused. */
enum agent_outcome agent_outcome_of(enum delta_status status);

/* The version being installed. */
struct agent_target {
    struct delta_digest version; /* zero = none */
    struct delta_digest blob;    /* what to download */
    uint64_t bytes;
    struct delta_digest model_blob; /* the whole model, when the delta does not do */
    uint64_t model_bytes;
    bool full; /* blob is the whole model */
    double old_before, old_after;
    uint32_t tested;
};

/* What became of the offer to the fleet to take a class over. */
enum agent_offer {
    AGENT_OFFER_NONE,    /* learned here, not sealed */
    AGENT_OFFER_SEALED,  /* signed, not uploaded */
    AGENT_OFFER_PENDING, /* the coordinator has it */
    AGENT_OFFER_MERGED,  /* a fleet version with it exists or will */
    AGENT_OFFER_REJECTED /* the coordinator does not want it: kept here */
};
const char *agent_offer_name(enum agent_offer offer);

/* A class of the inbox that is being or was learned here. */
struct agent_class {
    struct delta_class_id id;
    char folder[256];            /* in inbox/ */
    struct delta_digest content; /* fingerprint of the folder that was used */
    struct delta_digest base;    /* fleet version it was learned on; zero = not yet */
    bool refused;                /* that content on that base: the guard or a reader said no */
    enum agent_offer offer;
    bool again; /* rejected only because the coordinator did not know the base */
    struct delta_digest contribution; /* digest of the sealed file */
};

struct agent_event {
    int64_t at_ms;
    char text[200];
};

struct agent_state {
    enum agent_step step;
    unsigned loops;
    uint64_t serial; /* of the newest channel document accepted */
    char etag[80];
    struct agent_target target;
    struct agent_class classes[AGENT_CLASSES_MAX];
    size_t class_count;
    struct delta_digest local_base; /* fleet version under local.flm; zero = no local.flm */
    struct delta_digest rejected[AGENT_REJECTED_MAX]; /* versions, newest last */
    size_t rejected_count;
    struct agent_report report; /* to be sent */
    bool report_due;
    struct delta_digest noted[AGENT_NOTED_MAX]; /* inbox complaints already made */
    size_t noted_count;
    struct agent_event events[AGENT_EVENTS_MAX]; /* oldest first */
    size_t event_count;
    char last_error[480];
    int64_t last_error_ms;
};

/* Reads "<dir>/state.json". A missing file is a fresh state; a broken one too, and *fresh tells:
 * everything in it can be found out again.  fails: IO, NO_MEMORY */
DELTA_MUST_USE enum delta_status agent_state_load(struct agent_state *state, const char *dir,
                                                  bool *fresh, struct delta_error *err);
DELTA_MUST_USE enum delta_status agent_state_save(const struct agent_state *state, const char *dir,
                                                  struct delta_error *err);

void agent_state_event(struct agent_state *state, int64_t now_ms, const char *fmt, ...)
    DELTA_PRINTF(3, 4);
bool agent_state_is_rejected(const struct agent_state *state, const struct delta_digest *version);
void agent_state_reject(struct agent_state *state, const struct delta_digest *version);
/* True the first time for this complaint, false ever after. */
bool agent_state_note(struct agent_state *state, const struct delta_digest *complaint);
struct agent_class *agent_state_class(struct agent_state *state, const char *id); /* or NULL */
/* Finds or appends; NULL when full. */
struct agent_class *agent_state_add_class(struct agent_state *state,
                                          const struct delta_class_id *id);
void agent_state_drop_class(struct agent_state *state, const char *id);

/* Cumulative byte counts, in "<dir>/traffic.json". A missing or broken file counts from zero. */
void agent_traffic_load(struct agent_traffic_count counts[AGENT_TRAFFIC_COUNT], const char *dir);
DELTA_MUST_USE enum delta_status
agent_traffic_save(const struct agent_traffic_count counts[AGENT_TRAFFIC_COUNT], const char *dir,
                   struct delta_error *err);

#endif
