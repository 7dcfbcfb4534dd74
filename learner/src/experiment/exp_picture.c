#include "learner/experiment.h"
enum delta_status learner_experiment_pictures(const char *results, const char *dir, size_t *count, struct delta_error *err)
{ (void)results;(void)dir;(void)count;(void)err; return DELTA_OK; }
