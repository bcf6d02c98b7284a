//! Values like those that were refused late go to pickle at once: to find out costs as much as to
//! encode.
//!
//! What counts as alike are the types along the first items. A refusal is believed for one value,
//! then for two, and so on up to `MOST`; a success ends that.
#![allow(unsafe_code)]

use pyo3::ffi;
use pyo3::prelude::*;

/// Less than so many bytes are written in no time.
const WORTH: usize = 128;
const MOST: u32 = 64;
const SHAPES: usize = 16;
/// Levels that are looked at.
const LEVELS: usize = 4;

#[derive(Debug, Clone, Copy, Default)]
struct Refusal {
    shape: u64,
    believed: u32,
    left: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Refusals {
    shapes: [Refusal; SHAPES],
    /// Shapes that are believed to be refused.
    count: usize,
}

impl Refusals {
    /// Is `obj` to be left to pickle without trying?
    #[inline]
    pub fn expected(&mut self, obj: &Bound<'_, PyAny>) -> bool {
        self.count > 0 && {
            let shape = shape(obj);
            let known = &mut self.shapes[shape as usize % SHAPES];
            let expected = known.shape == shape && known.left > 0;
            known.left -= u32::from(expected);
            expected
        }
    }

    /// It was tried, with this result, after so many bytes.
    #[inline]
    pub fn note(&mut self, obj: &Bound<'_, PyAny>, refused: bool, written: usize) {
        if if refused { written >= WORTH } else { self.count > 0 } {
            self.note_down(shape(obj), refused);
        }
    }

    #[cold]
    fn note_down(&mut self, shape: u64, refused: bool) {
        let known = &mut self.shapes[shape as usize % SHAPES];
        if refused {
            let believed = if known.shape == shape { (2 * known.believed).clamp(1, MOST) } else { 1 };
            *known = Refusal { shape, believed, left: believed };
        } else if known.shape == shape {
            *known = Refusal::default();
        }
        self.count = self.shapes.iter().filter(|known| known.believed > 0).count();
    }
}

/// The types of a value and of its first items, mixed.
fn shape(obj: &Bound<'_, PyAny>) -> u64 {
    let mut shape = 0_u64;
    let mut at = obj.as_ptr();
    for _ in 0..LEVELS {
        // SAFETY: attached; each is alive, since what holds it is, and no Python code runs here
        // that could change that. Without a GIL another thread could: only the type of the value
        // itself is looked at.
        unsafe {
            let class = ffi::Py_TYPE(at);
            shape = (shape ^ class as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
            if cfg!(Py_GIL_DISABLED) {
                break;
            } else if class == &raw mut ffi::PyList_Type && ffi::PyList_Size(at) > 0 {
                at = ffi::PyList_GetItem(at, 0);
            } else if class == &raw mut ffi::PyTuple_Type && ffi::PyTuple_Size(at) > 0 {
                at = ffi::PyTuple_GetItem(at, 0);
            } else if class == &raw mut ffi::PyDict_Type && ffi::PyDict_Size(at) > 0 {
                let (mut position, mut key) = (0, std::ptr::null_mut());
                ffi::PyDict_Next(at, &mut position, &mut key, &mut at);
            } else {
                break;
            }
        }
    }
    shape
}
