//! Keys that came last: the next message often has the same, and need not make them, with their
//! hashes, anew.
//!
//! In one message a string is given once only: where the sender had two of one text, the receiver
//! has two.
#![cfg(not(Py_GIL_DISABLED))]
#![allow(unsafe_code)]

use std::cell::UnsafeCell;

use pyo3::prelude::*;

use super::read::text;

/// Strings that are kept, a power of two.
const PLACES: usize = 64;
/// The longest text that is.
pub const LONGEST: usize = 31;

struct Place {
    /// The last message that was given it.
    given: u64,
    len: usize,
    bytes: [u8; LONGEST],
    string: Option<Py<PyAny>>,
}

struct Kept {
    message: u64,
    places: [Place; PLACES],
}

struct Shared(UnsafeCell<Kept>);

// SAFETY: used by who is attached to the interpreter, which one thread is at a time; while a
// reference to it is held no code of others runs, nor does anybody detach.
unsafe impl Sync for Shared {}

static SHARED: Shared = Shared(UnsafeCell::new(Kept {
    message: 0,
    places: [const { Place { given: 0, len: 0, bytes: [0; LONGEST], string: None } }; PLACES],
}));

/// The number of a message that begins.
pub fn begin(_: Python<'_>) -> u64 {
    // SAFETY: attached (see `Shared`).
    let kept = unsafe { &mut *SHARED.0.get() };
    kept.message += 1;
    kept.message
}

/// The string of that text, for a message. None: an exception is set.
pub fn key<'py>(py: Python<'py>, bytes: &[u8], message: u64) -> Option<Bound<'py, PyAny>> {
    if bytes.len() > LONGEST {
        return text(py, bytes);
    }
    let index = place(bytes);
    // SAFETY: attached (see `Shared`).
    let place = unsafe { &mut (*SHARED.0.get()).places[index] };
    // One that came in between, while the collector ran, has a higher number.
    let is_free = place.given < message;
    if is_free
        && let Some(string) = &place.string
        && place.bytes[..place.len] == *bytes
    {
        place.given = message;
        return Some(string.bind(py).clone());
    }
    // Where it fails it makes an exception: that may run others' code.
    let new = text(py, bytes)?;
    // SAFETY: the same. What was kept is a string: to drop it runs no code of others.
    let place = unsafe { &mut (*SHARED.0.get()).places[index] };
    if is_free && place.given < message {
        place.given = message;
        place.len = bytes.len();
        place.bytes[..bytes.len()].copy_from_slice(bytes);
        place.string = Some(new.clone().unbind());
    }
    Some(new)
}

/// Where that text is kept: by its ends and its length.
fn place(bytes: &[u8]) -> usize {
    let [first, .., last] = bytes else { return usize::from(bytes.first().copied().unwrap_or(0)) % PLACES };
    let middle = bytes[bytes.len() / 2];
    let mixed = usize::from(*first) ^ usize::from(*last) << 2 ^ usize::from(middle) << 3 ^ bytes.len() << 1;
    (mixed ^ mixed >> 6) % PLACES
}
