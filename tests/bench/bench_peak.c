#include "bench_peak.h"

#include <pthread.h>
#include <stdint.h>
#include <time.h>

static double seconds_of(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

double bench_cpu_seconds(void)
{
    return seconds_of(CLOCK_PROCESS_CPUTIME_ID);
}

double bench_wall_seconds(void)
{
    return seconds_of(CLOCK_MONOTONIC);
}

#define CHAINS 12 /* more than latency times throughput on any processor at hand */

/* Independent chains of multiply-adds that stay in registers; returns a sum so that nothing is
 * optimised away. */
#define SPIN(name, lanes, attributes)                                                              \
    typedef float vec_##name __attribute__((vector_size(4 * (lanes))));                            \
    attributes static float spin_##name(uint64_t rounds)                                           \
    {                                                                                              \
        vec_##name acc[CHAINS], a = (vec_##name){0} + 0.999f, b = (vec_##name){0} + 1e-3f;         \
        for (int c = 0; c < CHAINS; c++) /* equal or constant chains would be merged */            \
            acc[c] = (vec_##name){0} + (float)(c + 2);                                             \
        float sum = 0;                                                                             \
        for (uint64_t r = 0; r < rounds; r++) {                                                    \
            for (int c = 0; c < CHAINS; c++)                                                       \
                acc[c] = acc[c] * a + b;                                                           \
        }                                                                                          \
        for (int c = 0; c < CHAINS; c++)                                                           \
            sum += acc[c][0];                                                                      \
        return sum;                                                                                \
    }

#ifdef __x86_64__
SPIN(avx512, 16, __attribute__((target("avx512f,fma"))))
SPIN(avx2, 8, __attribute__((target("avx2,fma"))))
#endif
SPIN(base, 4, )

struct spinner {
    float (*spin)(uint64_t);
    double lanes;
};

static struct spinner best_spinner(void)
{
#ifdef __x86_64__
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f"))
        return (struct spinner){spin_avx512, 16};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return (struct spinner){spin_avx2, 8};
#endif
    return (struct spinner){spin_base, 4};
}

double bench_peak_gflops(void)
{
    const uint64_t rounds = 1000000;
    const struct spinner spinner = best_spinner();
    double best = 0;
    volatile float sink = 0;

    for (int run = 0; run < 30; run++) {
        const double begin = bench_cpu_seconds();
        sink = sink + spinner.spin(rounds);
        const double rate =
            2 * spinner.lanes * CHAINS * (double)rounds / (bench_cpu_seconds() - begin) * 1e-9;
        if (rate > best)
            best = rate;
    }
    return best;
}

#define TOGETHER_ROUNDS 4000000 /* some 20 ms */

static void *spin_thread(void *sink)
{
    *(float *)sink = best_spinner().spin(TOGETHER_ROUNDS);
    return NULL;
}

double bench_peak_together_gflops(int threads)
{
    pthread_t others[BENCH_PEAK_THREADS_MAX];
    float sinks[BENCH_PEAK_THREADS_MAX + 1];
    int started = 0;
    const double begin = bench_wall_seconds();

    while (started < threads - 1 && started < BENCH_PEAK_THREADS_MAX &&
           !pthread_create(&others[started], NULL, spin_thread, &sinks[started]))
        started++;
    spin_thread(&sinks[started]);
    for (int i = 0; i < started; i++)
        pthread_join(others[i], NULL);
    const double seconds = bench_wall_seconds() - begin;
    return 2 * best_spinner().lanes * CHAINS * (double)TOGETHER_ROUNDS * (started + 1) / seconds *
           1e-9;
}
