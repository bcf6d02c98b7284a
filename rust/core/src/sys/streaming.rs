//! Copying past the caches: into memory that another core is about to read, or that is too large to
//! be found in a cache when it is looked at.
//!
//! A plain copy first fetches each line that it writes, from the cache of the core that had it
//! last; its reader then fetches it from ours. Between cores that share a cache that is the fastest
//! way. Between others it takes up to ten times as long as going by the memory. Which cores they are
//! no program can tell, and it changes: so plain copies are timed, and for as long as they are that
//! slow few are made.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use crate::deadline::now;

/// Fewer bytes are copied plainly: to look at the clock would show.
const TIMED: usize = 16 << 10;
/// More than a cache has to spare.
const LARGE: usize = 16 << 20;
/// A plain copy of fewer bytes in a nanosecond is slow. In one cache it makes 10 to 20, by way of
/// the memory so do those past the caches, between two caches some 2.
const SLOW: u64 = 4;
/// Nanoseconds for which then none is tried, at first and at most. One slow copy may be an accident:
/// it was interrupted, or met new pages. So it is twice as long each time that the next is slow too.
const AVOIDED_FIRST: u64 = 500_000;
const AVOIDED_MOST: u64 = 128_000_000;

/// Until when this process makes no plain copies, by the monotonic clock.
static AVOIDED_UNTIL: AtomicU64 = AtomicU64::new(0);
/// For how long the next time.
static AVOIDED_FOR: AtomicU64 = AtomicU64::new(AVOIDED_FIRST);

/// Copy `len` bytes, which another core is to read.
///
/// # Safety
/// As of `std::ptr::copy_nonoverlapping`, of bytes.
#[inline]
pub unsafe fn hand_over(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's.
    unsafe {
        if len < TIMED {
            std::ptr::copy_nonoverlapping(from, to, len);
        } else {
            hand_much_over(from, to, len);
        }
    }
}

unsafe fn hand_much_over(from: *const u8, to: *mut u8, len: usize) {
    let began = now();
    if len >= LARGE || began < AVOIDED_UNTIL.load(Ordering::Relaxed) {
        // SAFETY: the caller's.
        return unsafe { copy(from, to, len) };
    }
    // SAFETY: the caller's.
    unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
    let ended = now();
    let period = AVOIDED_FOR.load(Ordering::Relaxed);
    if (ended - began) * SLOW > len as u64 {
        AVOIDED_UNTIL.store(ended + period, Ordering::Relaxed);
        AVOIDED_FOR.store((2 * period).min(AVOIDED_MOST), Ordering::Relaxed);
    } else if period != AVOIDED_FIRST {
        AVOIDED_FOR.store(AVOIDED_FIRST, Ordering::Relaxed);
    }
}

/// Copy `len` bytes past the caches. Who sees what is stored after this sees them.
///
/// # Safety
/// As of `std::ptr::copy_nonoverlapping`, of bytes.
pub unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: the caller's.
    unsafe {
        copy_by_lines(from, to, len);
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    // SAFETY: the caller's.
    unsafe {
        std::ptr::copy_nonoverlapping(from, to, len);
    }
}

/// SSE2, which every x86-64 has.
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn copy_by_lines(from: *const u8, to: *mut u8, len: usize) {
    use std::arch::x86_64::{__m128i, _MM_HINT_NTA, _mm_loadu_si128, _mm_prefetch, _mm_sfence, _mm_stream_si128};
    const LINE: usize = 64;
    const AHEAD: usize = 1024;
    let first = to.align_offset(LINE).min(len);
    let last = first + (len - first) / LINE * LINE;
    // SAFETY: all offsets are at most `len`, and `to + first` is aligned. A prefetch may name any
    // address.
    unsafe {
        std::ptr::copy_nonoverlapping(from, to, first);
        for at in (first..last).step_by(LINE) {
            let (from, to) = (from.add(at).cast::<__m128i>(), to.add(at).cast::<__m128i>());
            _mm_prefetch::<_MM_HINT_NTA>(from.cast::<i8>().wrapping_add(AHEAD));
            let line = [0, 1, 2, 3].map(|part| _mm_loadu_si128(from.add(part)));
            for (part, bytes) in line.into_iter().enumerate() {
                _mm_stream_si128(to.add(part), bytes);
            }
        }
        std::ptr::copy_nonoverlapping(from.add(last), to.add(last), len - last);
        // These stores are weakly ordered: a release after them does not wait for them.
        _mm_sfence();
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn copies_what_it_is_asked_to_and_nothing_else() {
        let from: Vec<u8> = (0..4096u32).map(|n| (n * 7 + n / 256) as u8).collect();
        for start in [0, 1, 15, 63] {
            for to_start in [0, 1, 17, 63] {
                for len in [0, 1, 63, 64, 65, 200, 1024, 2051] {
                    let mut to = vec![255u8; 4096];
                    // SAFETY: both vectors are longer than any sum above.
                    unsafe { super::copy(from.as_ptr().add(start), to.as_mut_ptr().add(to_start), len) };
                    assert_eq!(to[to_start..to_start + len], from[start..start + len]);
                    assert!(to[..to_start].iter().chain(&to[to_start + len..]).all(|&byte| byte == 255));
                }
            }
        }
    }
}
