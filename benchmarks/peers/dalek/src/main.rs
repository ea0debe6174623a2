//! Prints the median process time, in microseconds a point, of curve25519-dalek's variable-time sum
//! of multiples of as many random ristretto255 points as the first argument says.

use curve25519_dalek::{ristretto::RistrettoPoint, scalar::Scalar, traits::VartimeMultiscalarMul};
use rand_core::OsRng;

fn process_time() -> f64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut now) };
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}

fn main() {
    let n: usize = std::env::args().nth(1).map_or(10_000, |one| one.parse().expect("a number"));
    let points: Vec<_> = (0..n).map(|_| RistrettoPoint::random(&mut OsRng)).collect();
    let scalars: Vec<_> = (0..n).map(|_| Scalar::random(&mut OsRng)).collect();
    let mut times: Vec<f64> = (0..6)
        .map(|_| {
            let start = process_time();
            std::hint::black_box(RistrettoPoint::vartime_multiscalar_mul(&scalars, &points));
            process_time() - start
        })
        .skip(1)
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{}", times[times.len() / 2] / n as f64 * 1e6);
}
