//! What arrives as a pickle stream with buffers beside it.
//!
//! A large buffer stays in its extent, and what is made of it looks at it there: a loan (see
//! [`lent`](super::lent)). All else is copied out, and what is not bytes to the program alone is
//! looked at only then:
//!
//! - small buffers, and what is a small part of its message: a sixteenth of it would keep all the
//!   rest;
//! - what was a `bytes` or `bytearray`: pickle hands the buffer itself to who asked for it, who may
//!   want to use it as one;
//! - what several read, and what cannot be lent just then.

use fastmp_core::channel::ring::Received;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::framing::{self, ALIGN, PLAIN, Source};
use super::lent::Lent;
use super::pickler::APART;
use crate::errors::garbage;

/// What is lent at least.
const LEAST: usize = 64 << 10;
/// And which part of its message.
const PART: usize = 16;
/// What is looked at first of a message in an extent: in most, all lengths and the stream.
const FIRST_LOOK: usize = 1 << 10;

/// Where a buffer is in its message.
struct Place {
    at: usize,
    len: usize,
    /// Will any object do that has these bytes?
    any: bool,
}

/// Where the parts of a message are. What is read is read once, and checked.
struct Layout {
    stream: Place,
    buffers: Vec<Place>,
}

impl Layout {
    fn read(py: Python<'_>, source: &Source<'_>, first: &[u8]) -> PyResult<Layout> {
        let word = |index: usize| {
            let at = 8 * index;
            let mut word = [0; 8];
            match first.get(at..at + 8) {
                Some(known) => word.copy_from_slice(known),
                None => source.read(py, at, &mut word)?,
            }
            Ok::<_, PyErr>(u64::from_le_bytes(word))
        };
        let size = |word: u64| usize::try_from(word).map_err(|_| garbage());
        let (count, stream) = (size(word(0)?)?, size(word(1)?)?);
        // No sender keeps less apart. And to look at each takes time and memory.
        if count > source.len() / APART {
            return Err(garbage());
        }
        let mut at = 16 + 8 * count;
        let place = |at: usize, len: usize, any: bool| source.check(at, len).map(|()| Place { at, len, any });
        let stream = place(at, stream, false)?;
        at += stream.len;
        // As they come: the count may be garbage.
        let mut buffers = Vec::new();
        for index in 0..count {
            let word = word(2 + index)?;
            at = at.checked_next_multiple_of(ALIGN).ok_or_else(garbage)?;
            buffers.push(place(at, size(word & !PLAIN)?, word & PLAIN == 0)?);
            at += buffers[index].len;
        }
        Ok(Layout { stream, buffers })
    }
}

/// A pickle stream and its buffers.
pub type OutOfBand<'py> = (Bound<'py, PyBytes>, Vec<Bound<'py, PyAny>>);

/// The stream of a message, and its buffers. The message is given up but for what is lent of it.
pub fn take_apart<'py>(py: Python<'py>, mut received: Received, inbox: &[u8]) -> PyResult<OutOfBand<'py>> {
    let source = framing::source(&received, inbox);
    let mut looked = [0; FIRST_LOOK];
    let first = match source {
        Source::Inbox(bytes) => bytes,
        Source::Extent(..) | Source::Loan(_) => {
            let looked = &mut looked[..FIRST_LOOK.min(source.len())];
            source.read(py, 0, looked)?;
            looked
        }
    };
    let Layout { stream, buffers: places } = Layout::read(py, &source, first)?;
    let stream = match first.get(stream.at..stream.at + stream.len) {
        Some(known) => PyBytes::new(py, known),
        None => source.bytes(py, stream.at, stream.len)?,
    };
    let least = LEAST.max(source.len() / PART);
    let is_large = |place: &Place| place.any && place.len >= least;
    let mut loan = None;
    if places.iter().any(is_large)
        && let Some(extent) = received.extent.take()
    {
        let (extent, len) = *extent;
        match extent.lend(len) {
            Ok(lent) => loan = Some(lent),
            Err(extent) => received.extent = Some(Box::new((extent, len))),
        }
    }
    let source = loan.as_deref().map_or_else(|| framing::source(&received, inbox), Source::Loan);
    let buffer = |place: Place| match &loan {
        Some(loan) if is_large(&place) => Lent::view(py, loan.clone(), place.at, place.len),
        _ => Ok(source.bytearray(py, place.at, place.len)?.into_any()),
    };
    let buffers = places.into_iter().map(buffer).collect::<PyResult<_>>()?;
    framing::give_back(py, received);
    Ok((stream, buffers))
}
