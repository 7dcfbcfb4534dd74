/* What one core of this machine can do at most: multiply-adds between registers. */
#ifndef BENCH_PEAK_H
#define BENCH_PEAK_H

double bench_cpu_seconds(void); /* of all threads of this process */
double bench_wall_seconds(void);
/* GFLOP/s of one thread per second of its processor time, the best of several short runs. */
double bench_peak_gflops(void);

#endif
