//! `.value` of a guarded number or character, and the operations on integers that take no lock.

use fastmp_core::cells::Update;
use pyo3::exceptions::{PyAttributeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::capi::call::{Answer, Args, Convention, Method, Property, Raised, Slots, method, property, subclass};
use crate::capi::construct::made_plainly;
use crate::sharedctypes::guarded::{Guarded, Items, Parts, outside, slowly};
use crate::sharedctypes::scalar::masked;

#[inline(always)]
fn native<'a>(slf: Borrowed<'a, '_, Guarded>) -> Option<(&'a Parts, &'a Items)> {
    let parts = slf.get().parts()?;
    parts.native().filter(|items| !items.is_array).map(|items| (parts, items))
}

/// `.value`.
struct Value;

impl Property for Value {
    type Of = Guarded;

    #[inline(always)]
    fn get<'py>(slf: Borrowed<'_, 'py, Guarded>) -> Answer<'py> {
        if let Some((parts, items)) = native(slf)
            && let Some(bits) = parts.locked(|| items.cells.load(0))?
        {
            return items.scalar.boxed(slf.py(), bits.ok_or_else(outside)?);
        }
        slowly(slf, "_get_value", &[])
    }

    #[inline(always)]
    fn set<'py>(slf: Borrowed<'_, 'py, Guarded>, value: Option<Borrowed<'_, 'py, PyAny>>) -> Result<(), Raised> {
        let Some(value) = value else {
            return Err(PyAttributeError::new_err("property 'value' has no deleter").into());
        };
        if let Some((parts, items)) = native(slf)
            && let Some(bits) = items.scalar.bits(value)
            && let Some(done) = parts.locked(|| items.cells.store(0, bits))?
        {
            return done.ok_or_else(outside);
        }
        slowly(slf, "_set_value", &[value]).map(drop)
    }
}

/// The integer of `slf`: no lock is taken, so whose it is does not matter.
fn integer<'a>(slf: Borrowed<'a, '_, Guarded>) -> Result<&'a Items, Raised> {
    let items = slf.get().parts().and_then(|parts| parts.items.as_ref());
    items.filter(|items| !items.is_array && items.scalar.is_integer()).ok_or_else(|| {
        PyTypeError::new_err("only an integer in fastmp's shared memory can be changed atomically").into()
    })
}

fn operand(args: Args<'_, '_>, i: usize) -> Result<u64, Raised> {
    args.get(i).and_then(masked).ok_or_else(|| PyTypeError::new_err("an int is required").into())
}

macro_rules! updates {
    ($($(#[$about:meta])* $name:ident: $update:ident),*) => {$(
        $(#[$about])*
        struct $name;

        impl Method for $name {
            type Of = Guarded;
            #[inline(always)]
            fn call<'py>(slf: Borrowed<'_, 'py, Guarded>, args: Args<'_, 'py>) -> Answer<'py> {
                let (items, by) = (integer(slf)?, operand(args, 0)?);
                let was = items.cells.update(0, Update::$update, by).ok_or_else(outside)?;
                items.scalar.boxed(slf.py(), was)
            }
        }
    )*};
}

updates!(FetchAdd: Add, FetchSub: Sub, FetchOr: Or, FetchAnd: And, FetchXor: Xor, Exchange: Swap);

struct CompareExchange;

impl Method for CompareExchange {
    type Of = Guarded;
    fn call<'py>(slf: Borrowed<'_, 'py, Guarded>, args: Args<'_, 'py>) -> Answer<'py> {
        if args.len() != 2 {
            return Err(PyTypeError::new_err("compare_exchange() takes exactly two arguments").into());
        }
        let (items, expected, new) = (integer(slf)?, operand(args, 0)?, operand(args, 1)?);
        let done = items.cells.compare_exchange(0, expected, new).ok_or_else(outside)?;
        Ok(pyo3::types::PyBool::new(slf.py(), done).to_owned().into_any())
    }
}

const DOC: &str = "A number or character.

Subclasses have `_get_value()` and `_set_value(value)`, for what is not done natively.

What is atomic here is so across processes, takes no lock, and is sequentially consistent.
Arguments are ints of any size, of which the lowest bits count, as in C. Raises TypeError for
other arguments, and if it is no integer.";

/// A subclass of `Guarded` with `.value` and the rest.
pub fn class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    let class = subclass::<Guarded>(py, c"fastmp._native.GuardedValue", made_plainly(Slots::none()))?;
    class.setattr("__doc__", DOC)?;
    install(&class)?;
    Ok(class)
}

/// Give a subclass of `Guarded` `.value` and the rest.
pub fn install(class: &Bound<'_, PyType>) -> PyResult<()> {
    macro_rules! add {
        ($($method:ident, $name:literal, $convention:ident, $doc:literal;)*) => {
            $(class.setattr($name.to_string_lossy(), method::<$method>(class, $name, Convention::$convention, $doc)?)?;)*
        };
    }
    add! {
        FetchAdd, c"fetch_add", One, c"fetch_add($self, n, /)\n--\n\nAdds atomically, wrapping around; returns the previous value.";
        FetchSub, c"fetch_sub", One, c"fetch_sub($self, n, /)\n--\n\nSubtracts atomically, wrapping around; returns the previous value.";
        FetchOr, c"fetch_or", One, c"fetch_or($self, n, /)\n--\n\nSets bits atomically; returns the previous value.";
        FetchAnd, c"fetch_and", One, c"fetch_and($self, n, /)\n--\n\nKeeps bits atomically; returns the previous value.";
        FetchXor, c"fetch_xor", One, c"fetch_xor($self, n, /)\n--\n\nFlips bits atomically; returns the previous value.";
        Exchange, c"exchange", One, c"exchange($self, n, /)\n--\n\nReplaces the value atomically; returns the previous value.";
        CompareExchange, c"compare_exchange", Fast,
            c"compare_exchange($self, expected, new, /)\n--\n\nReplaces the value atomically if it is `expected`; returns whether it was.";
    }
    class.setattr(
        "value",
        property::<Value>(
            class,
            c"value",
            c"The number or character, read or written with the lock held, in one piece.",
        )?,
    )
}
