//! Exact builtin values to bytes and back, without pickle.
//!
//! Only where the result is provably what pickle would give: exact `None`, `bool`, `int` (64 bits),
//! `float`, `str`, `bytes`, `bytearray`, and tuples, lists, dicts and sets of them; and instances
//! of classes of which it is known what pickle would do (see `classes`). Anything else is refused
//! and goes to pickle. So does what pickle does better: long strings, deep nesting.
//!
//! # Identity
//! Pickle gives one object for one object, numbers and singletons apart. So does this, by the memo:
//! whatever may be met again is noted with the place of its tag. When it is met again, its tag is
//! marked as *shared*, and a reference is written instead of it.
//! What has a reference count of one is not noted: the one reference is the one that led to it.
//! Keys of dicts always are, since dicts can share their tables of keys. A short tuple of numbers
//! and different short strings needs no memo: what is there twice is seen at a glance.
//!
//! # Records
//! A dict with the same strings for keys, in the same order, as the last one of its size (counted
//! modulo `RECORDS`) is a record: its values alone are written. The reader copies the earlier dict,
//! keys with their hashes, and puts the values in.
//!
//! # Bytes
//! A tag, then, little-endian: integers in 0, 1, 2, 4 or 8 bytes, floats in 8, lengths in 0, 1 or
//! 4. With anything shared there is a trailer: for each shared tag, in the order in which they
//! stand, the number by which it is referred to; then their count. The message's format tells which
//! it is.
//!
//! # Instances
//! To make one runs Python code, if only a `__new__` or a `__hash__`: the message's format says
//! whether there are any. Such code may get hold of what is not complete. So a list, dict or set
//! that is shared is filled as pickle fills it: up to a thousand items at once, when they are
//! there.
//!
//! # What is not made anew
//! Small integers have one object each in the interpreter (`small`); keys of dicts are often those
//! of the message before (`keys`); a list's items are read and set where they are (`lists`).
//!
//! # Threads
//! While a value is encoded no Python code runs and the interpreter stays attached, so that
//! borrowed items stay alive and in place. Without a GIL this is not enough: a list, dict or set is
//! copied first, by the interpreter's own means, which lock it, and the copy is kept until the end.
#![allow(unsafe_code)]

mod classes;
mod instances;
#[cfg(not(Py_GIL_DISABLED))]
mod keys;
#[cfg(not(Py_GIL_DISABLED))]
mod lists;
mod memo;
mod objects;
mod read;
mod refusals;
mod sink;
mod small;
mod write;

use std::cell::Cell;

use fastmp_core::channel::ring::INLINE;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use instances::Known;
use memo::Memo;
use read::Reader;
use refusals::Refusals;
use sink::Sink;
use small::Small;
use write::{Record, Writer};

use crate::errors::garbage;

/// 0 to 63 is that integer; then come short strings, by their length, unshared and shared.
const SHORT_STR: u8 = 0x40;
const SHORT_STR_MOST: usize = 31;
const SHORT_SHARED: u8 = 0x20;
/// The first tag of those that are shared.
const SHORT_STR_END: u8 = SHORT_STR | SHORT_SHARED;

/// Tags of sized things come in fours: the bits `LONG` and `SHARED`.
const STR: u8 = 0x80;
const BYTES: u8 = 0x84;
const BYTEARRAY: u8 = 0x88;
const TUPLE: u8 = 0x8c;
const LIST: u8 = 0x90;
const DICT: u8 = 0x94;
const SET: u8 = 0x98;
const FROZENSET: u8 = 0x9c;
/// A dict whose keys are those of an earlier one: the values only.
const RECORD: u8 = 0xa0;
/// A length of four bytes, not one.
const LONG: u8 = 1;
/// Referred to later.
const SHARED: u8 = 2;

const NONE: u8 = 0xa4;
const TRUE: u8 = 0xa5;
const FALSE: u8 = 0xa6;
const INT1: u8 = 0xa7;
const INT2: u8 = 0xa8;
const INT4: u8 = 0xa9;
const INT8: u8 = 0xaa;
const FLOAT: u8 = 0xab;
const REF1: u8 = 0xac;
const REF4: u8 = 0xad;
/// Of these only the bit `SHARED` is used: `__new__` without arguments and a `__dict__`; `__new__`
/// with arguments; a call of the class.
const INSTANCE: u8 = 0xb0;
const NEW: u8 = 0xb4;
const CALL: u8 = 0xb8;

/// Deeper values are left to pickle, which knows how to refuse. A level takes some 200 bytes of
/// stack, and a thread of Python's may have 32 KiB.
const DEEPEST: u32 = 50;
/// Longer ones too: pickle hands large bytes on without another copy.
const LONGEST: usize = 256 << 10;

/// Fields that a record may have.
const FIELDS: std::ops::RangeInclusive<usize> = 2..=16;
/// Kinds of records that are remembered.
const RECORDS: usize = 4;

thread_local! {
    /// Taken while in use: what runs in between may itself put.
    static KEPT: Cell<Option<Box<Kept>>> = const { Cell::new(None) };
}

/// What a thread keeps from one value to the next.
#[derive(Default)]
struct Kept {
    memo: Memo,
    refusals: Refusals,
    records: [Record; RECORDS],
    classes: Vec<Known>,
}

/// What became of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoded {
    /// Its bytes have no trailer.
    Plain,
    /// They have one.
    WithShared,
    /// They have one, and there are instances among them.
    WithInstances,
    /// It is none that this knows, or is better left to pickle; what was written is garbage.
    Refused,
}

/// Append `obj` to `out`, which is empty; with `instances` if that is set.
pub fn encode(obj: &Bound<'_, PyAny>, out: &mut Vec<u8>, instances: bool) -> Encoded {
    let small = Small::get(obj.py());
    // SAFETY: `obj` is alive, and the interpreter is attached as its lifetime shows.
    if unsafe { write::scalar(&mut Sink::new(out), small, obj.as_ptr()) } {
        return Encoded::Plain;
    }
    // SAFETY: the same.
    if unsafe { write::flat(&mut Sink::new(out), small, obj.as_ptr()) } {
        return Encoded::Plain;
    }
    out.clear();
    // It goes by an extent: straight there, and straight from there into the new object.
    if obj.cast_exact::<PyBytes>().is_ok_and(|bytes| bytes.as_bytes().len() > INLINE) {
        return Encoded::Refused;
    }
    let mut kept = KEPT.take().unwrap_or_else(|| {
        classes::prepare(obj.py());
        #[cfg(not(Py_GIL_DISABLED))]
        lists::prepare(obj.py());
        Default::default()
    });
    if kept.refusals.expected(obj) {
        KEPT.set(Some(kept));
        return Encoded::Refused;
    }
    kept.memo.begin();
    for record in &mut kept.records {
        record.clear();
    }
    let mut writer = Writer {
        #[cfg(not(Py_GIL_DISABLED))]
        py: obj.py(),
        out: Sink::new(out),
        small,
        memo: &mut kept.memo,
        records: &mut kept.records,
        classes: instances.then_some(&mut kept.classes),
        #[cfg(Py_GIL_DISABLED)]
        copies: Vec::new(),
    };
    // SAFETY: `obj` is alive, and the interpreter is attached as its lifetime shows.
    let done = unsafe { writer.value(obj.as_ptr(), 0) };
    let encoded = match done {
        Some(()) if writer.classes.as_ref().is_some_and(|classes| !classes.is_empty()) => {
            writer.trailer(true);
            Encoded::WithInstances
        }
        Some(()) if writer.trailer(false) => Encoded::WithShared,
        Some(()) => Encoded::Plain,
        None => Encoded::Refused,
    };
    kept.classes.clear();
    kept.refusals.note(obj, encoded == Encoded::Refused, out.len());
    KEPT.set(Some(kept));
    encoded
}

/// The value that `encode` made these bytes from, and called `kind`. With instances it may run
/// Python code.
///
/// # Errors
/// `CorruptedError`, or what making such an object raises, for any other bytes.
pub fn decode<'py>(py: Python<'py>, bytes: &[u8], kind: Encoded) -> PyResult<Bound<'py, PyAny>> {
    // What is common and short: a short string, unshared.
    if let [tag @ SHORT_STR..SHORT_STR_END, text @ ..] = bytes
        && text.len() == usize::from(tag - SHORT_STR)
    {
        return read::text(py, text).ok_or_else(|| PyErr::take(py).unwrap_or_else(garbage));
    }
    let mut reader = Reader::new(py, bytes);
    match kind {
        Encoded::Plain => (),
        Encoded::WithShared => reader.split_trailer().ok_or_else(garbage)?,
        Encoded::WithInstances => {
            reader.split_trailer().ok_or_else(garbage)?;
            reader.expect_instances();
        }
        Encoded::Refused => return Err(garbage()),
    }
    match reader.value(0) {
        Some(value) if reader.is_at_end() => Ok(value),
        Some(_) => Err(garbage()),
        None => Err(PyErr::take(py).unwrap_or_else(garbage)),
    }
}
