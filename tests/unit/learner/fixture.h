/* Small networks and inputs that the engine's tests share. */
#ifndef FIXTURE_H
#define FIXTURE_H

#include "harness.h"
#include "learner/net.h"

struct fixture_row {
    const char *arch, *stem;
    uint32_t width, side;
};

/* Small versions of every network and stem; odd sizes on purpose. */
extern const struct fixture_row fixture_rows[];
extern const size_t fixture_row_count;

/* An untrained network whose batch norms hold non-trivial numbers, so that no error hides behind
 * scale 1 and shift 0. Fails the test on error. */
void fixture_network(struct delta_model *out, const struct fixture_row *row, size_t classes,
                     uint64_t seed);
/* resnet18 with CIFAR stem */
void fixture_model(struct delta_model *out, uint32_t width, uint32_t side, size_t classes,
                   uint64_t seed);
struct learner_net *fixture_net(const struct delta_model *model, const char *device, size_t batch,
                                int threads, bool train);
void fixture_fill(float *data, size_t count, uint64_t seed); /* normal, variance 1 */
size_t fixture_input_count(const struct delta_model *model);

/* ||a - b|| / max(||b||, tiny) */
double fixture_distance(const float *a, const float *b, size_t count);

#endif
