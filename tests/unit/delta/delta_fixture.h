/* Small models and keys that the tests of delta share. */
#ifndef DELTA_FIXTURE_H
#define DELTA_FIXTURE_H

#include "delta/delta.h"
#include "harness.h"

/* A tiny network-like model, the same bytes every time: conv1.weight [4,3,3,3] (rows 0 and 2
 * frozen), bn1.weight [4] (all frozen), layer.weight [4,4] (bitmap per weight), fc.weight
 * [3,4] and fc.bias [3] live; classes apple, bee, cat. */
void fixture_model(struct delta_model *out);
/* As above with its tensors in another order. */
void fixture_model_shuffled(struct delta_model *out);
/* Deterministic values; never 0, NaN or infinite. */
float fixture_value(uint64_t *state);
/* A key that is made once per process. */
const struct delta_key *fixture_key(void);
const struct delta_key *fixture_other_key(void);
void fixture_ring(struct delta_keyring *ring, const struct delta_key *key);
/* Fails the test unless both have the same arch, parent, classes, tensors (bits) and plans. */
void fixture_assert_same(const struct delta_model *a, const struct delta_model *b);

#endif
