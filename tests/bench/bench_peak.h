/* What one core of this machine can do at most: multiply-adds between registers. */
#ifndef BENCH_PEAK_H
#define BENCH_PEAK_H

double bench_cpu_seconds(void); /* of all threads of this process */
double bench_wall_seconds(void);
/* GFLOP/s of one thread per second of its processor time, the best of several short runs. */
double bench_peak_gflops(void);
/* GFLOP/s of so many threads at once, by the clock, in one short run: what the machine gives now.
 * Virtual machines change speed by a factor of two with their neighbours. */
#define BENCH_PEAK_THREADS_MAX 63
double bench_peak_together_gflops(int threads);

#endif
