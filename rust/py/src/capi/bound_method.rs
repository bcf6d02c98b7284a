//! What `with lock` binds: a descriptor whose bound objects come off a free list.
//!
//! The interpreter binds `__enter__` and `__exit__` anew for every `with`. Two garbage-collected
//! objects made and freed cost as much as all the rest of an uncontended `with`; a reused one with
//! nothing but a function and its `self` costs next to nothing. Accessed through the class (as
//! `ExitStack` does) the plain method descriptor shows instead.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};
use std::mem::offset_of;
use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::capi::call::{Method as Call, check, function};

/// The fields of a descriptor, behind the interpreter's own.
#[repr(C)]
struct Binding {
    function: ffi::PyCFunction,
    most: ffi::Py_ssize_t,
    /// For access through the class.
    plain: *mut ffi::PyObject,
    bound: *mut ffi::PyTypeObject,
    /// What `function` takes; kept by `plain`.
    owner: *mut ffi::PyTypeObject,
}

/// The fields of a bound object, likewise.
#[repr(C)]
struct Method {
    vectorcall: ffi::vectorcallfunc,
    function: ffi::PyCFunction,
    /// The most arguments that it takes.
    most: ffi::Py_ssize_t,
    slf: *mut ffi::PyObject,
}

/// Where an object's fields are: right behind the interpreter's own.
#[cfg(not(all(Py_LIMITED_API, Py_GIL_DISABLED)))]
mod place {
    use std::ffi::c_int;

    use pyo3::ffi;

    const HEAD: usize = size_of::<ffi::PyObject>();
    /// How a member's offset counts.
    pub const FLAGS: c_int = 0;

    pub const fn offset(field: usize) -> usize {
        HEAD + field
    }

    pub const fn basicsize<T>() -> c_int {
        assert!(align_of::<T>() <= HEAD);
        (HEAD + size_of::<T>()) as c_int
    }

    /// # Safety
    /// `object` is of a type made with `basicsize::<T>()`.
    #[inline(always)]
    pub unsafe fn fields<T>(object: *mut ffi::PyObject) -> *mut T {
        // SAFETY: the caller's: so long is the object.
        unsafe { object.byte_add(HEAD).cast() }
    }
}

/// The stable ABI for both kinds of interpreter does not tell how long these are: the interpreter
/// is asked (PEP 697).
#[cfg(all(Py_LIMITED_API, Py_GIL_DISABLED))]
mod place {
    use std::ffi::c_int;

    use pyo3::ffi;

    pub const FLAGS: c_int = ffi::Py_RELATIVE_OFFSET;

    pub const fn offset(field: usize) -> usize {
        field
    }

    /// Less than nothing: so much more than the base.
    pub const fn basicsize<T>() -> c_int {
        -(size_of::<T>() as c_int)
    }

    /// # Safety
    /// Attached; `object` is of a type made with `basicsize::<T>()`.
    #[inline(always)]
    pub unsafe fn fields<T>(object: *mut ffi::PyObject) -> *mut T {
        // SAFETY: the caller's; nobody derives from the type.
        unsafe { ffi::PyObject_GetTypeData(object, ffi::Py_TYPE(object)).cast() }
    }
}

/// Memory of dead bound objects, which still hold the reference to their type. Without the GIL
/// there is none: other threads may look at an object that has just died, and only the
/// interpreter's own allocator knows of them.
#[cfg(not(Py_GIL_DISABLED))]
mod free {
    use std::cell::UnsafeCell;

    use pyo3::ffi::PyObject;

    const KEPT: usize = 8;

    struct UnderGil(UnsafeCell<([*mut PyObject; KEPT], usize)>);
    // SAFETY: binding and deallocating happen attached to the one interpreter that PyO3 lets import
    // this module, so under its GIL.
    unsafe impl Sync for UnderGil {}
    static FREE: UnderGil = UnderGil(UnsafeCell::new(([std::ptr::null_mut(); KEPT], 0)));

    /// A kept one, if there is one.
    pub fn take() -> Option<*mut PyObject> {
        // SAFETY: under the GIL, and nothing is called while it is looked at.
        let (list, n) = unsafe { &mut *FREE.0.get() };
        *n = n.checked_sub(1)?;
        Some(list[*n])
    }

    /// Keep `memory`, if there is room.
    pub fn keep(memory: *mut PyObject) -> bool {
        // SAFETY: as in `take`.
        let (list, n) = unsafe { &mut *FREE.0.get() };
        let room = *n < KEPT;
        if room {
            list[*n] = memory;
            *n += 1;
        }
        room
    }
}

#[cfg(Py_GIL_DISABLED)]
mod free {
    use pyo3::ffi::PyObject;

    pub fn take() -> Option<*mut PyObject> {
        None
    }

    pub fn keep(_memory: *mut PyObject) -> bool {
        false
    }
}

/// A new object of type `class`, its fields not yet set; null with an exception set.
///
/// # Safety
/// Attached; `class` is the type of bound methods.
#[inline(always)]
unsafe fn new_method(class: *mut ffi::PyTypeObject) -> *mut ffi::PyObject {
    // SAFETY: the caller's. A kept one is a dead object with its type in place; only this function
    // knows of it.
    unsafe {
        let Some(memory) = free::take() else { return ffi::PyType_GenericAlloc(class, 0) };
        // All that PyObject_Init would do: the first word is the count of references in every
        // build with a GIL.
        memory.cast::<isize>().write(1);
        memory
    }
}

unsafe extern "C" fn bind(
    descriptor: *mut ffi::PyObject,
    slf: *mut ffi::PyObject,
    _class: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the slot's contract: `descriptor` is a `Binding`, `slf` null or an instance. The
    // memory is a free one of the right size, and is initialised before it is seen.
    unsafe {
        let binding = place::fields::<Binding>(descriptor);
        if slf.is_null() {
            ffi::Py_INCREF((*binding).plain);
            return (*binding).plain;
        }
        let (class, owner) = (ffi::Py_TYPE(slf), (*binding).owner);
        if class != owner && ffi::PyType_IsSubtype(class, owner) == 0 {
            ffi::PyErr_SetString(ffi::PyExc_TypeError, c"this method does not go with such an object".as_ptr());
            return ptr::null_mut();
        }
        let bound = new_method((*binding).bound);
        if bound.is_null() {
            return ptr::null_mut();
        }
        ffi::Py_INCREF(slf);
        let (function, most) = ((*binding).function, (*binding).most);
        place::fields::<Method>(bound).write(Method { vectorcall: call, function, most, slf });
        bound
    }
}

unsafe extern "C" fn call(
    bound: *mut ffi::PyObject,
    _args: *const *mut ffi::PyObject,
    nargs: usize,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called through the slot of a `Method`.
    unsafe {
        let bound = place::fields::<Method>(bound);
        // The top bit says that the slot before the arguments may be used.
        let nargs = nargs & (usize::MAX >> 1);
        if nargs > (*bound).most as usize || !(keywords.is_null() || ffi::PyTuple_Size(keywords) == 0) {
            ffi::PyErr_SetString(ffi::PyExc_TypeError, c"this method takes no such arguments".as_ptr());
            return ptr::null_mut();
        }
        ((*bound).function)((*bound).slf, ptr::null_mut())
    }
}

unsafe extern "C" fn call_slowly(
    bound: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    _keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the slot's contract: `args` is a tuple.
    unsafe { call(bound, ptr::null(), ffi::PyTuple_Size(args) as usize, ptr::null_mut()) }
}

unsafe extern "C" fn dealloc(bound: *mut ffi::PyObject) {
    // SAFETY: the last reference to a `Method`, whose type is a heap type that it holds a reference
    // to.
    unsafe {
        let slf = (*place::fields::<Method>(bound)).slf;
        if !free::keep(bound) {
            let class = ffi::Py_TYPE(bound);
            ffi::PyObject_Free(bound.cast());
            ffi::Py_DECREF(class.cast());
        }
        // Last: it may run anything.
        ffi::Py_DECREF(slf);
    }
}

fn make_type(
    py: Python<'_>,
    name: &'static CStr,
    basicsize: c_int,
    flags: u64,
    slots: &mut [ffi::PyType_Slot],
) -> PyResult<Py<PyType>> {
    let mut spec = ffi::PyType_Spec {
        name: name.as_ptr(),
        basicsize,
        itemsize: 0,
        flags: (ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION | flags) as _,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: a complete spec; what it points to outlives the call, and what the type keeps is
    // static.
    let class = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&mut spec))? };
    Ok(class.cast_into::<PyType>()?.unbind())
}

const END: ffi::PyType_Slot = ffi::PyType_Slot { slot: 0, pfunc: ptr::null_mut() };

fn bound_type(py: Python<'_>) -> PyResult<&Py<PyType>> {
    static TYPE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    TYPE.get_or_try_init(py, || {
        // Known to CPython since 3.9, and part of the limited API since 3.12.
        const HAVE_VECTORCALL: u64 = 1 << 11;
        const T_OBJECT_EX: c_int = 16;
        const T_PYSSIZET: c_int = 19;
        const READONLY: c_int = 1;
        let member = |name: &'static CStr, kind, offset: usize| ffi::PyMemberDef {
            name: name.as_ptr(),
            type_code: kind,
            offset: place::offset(offset) as _,
            flags: READONLY | place::FLAGS,
            doc: ptr::null(),
        };
        let none = ffi::PyMemberDef { name: ptr::null(), type_code: 0, offset: 0, flags: 0, doc: ptr::null() };
        // The type keeps pointers into it.
        let members = Box::leak(Box::new([
            member(c"__vectorcalloffset__", T_PYSSIZET, offset_of!(Method, vectorcall)),
            member(c"__self__", T_OBJECT_EX, offset_of!(Method, slf)),
            none,
        ]));
        let mut slots = [
            ffi::PyType_Slot { slot: ffi::Py_tp_dealloc, pfunc: dealloc as *mut c_void },
            ffi::PyType_Slot { slot: ffi::Py_tp_call, pfunc: call_slowly as *mut c_void },
            ffi::PyType_Slot { slot: ffi::Py_tp_members, pfunc: members.as_mut_ptr().cast() },
            END,
        ];
        make_type(py, c"fastmp._native.bound_method", place::basicsize::<Method>(), HAVE_VECTORCALL, &mut slots)
    })
}

/// A descriptor that binds `M`, which takes an `owner` and looks at none of its arguments, of which
/// there may be `most`. `plain` shows through the class.
pub fn descriptor<'py, M: Call>(
    owner: &Bound<'py, PyType>,
    plain: Bound<'py, PyAny>,
    most: usize,
) -> PyResult<Bound<'py, PyAny>> {
    static TYPE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    check::<M::Of>(owner)?;
    let py = plain.py();
    let bound = bound_type(py)?.bind(py).as_type_ptr();
    let class = TYPE.get_or_try_init(py, || {
        let mut slots = [ffi::PyType_Slot { slot: ffi::Py_tp_descr_get, pfunc: bind as *mut c_void }, END];
        make_type(py, c"fastmp._native.method_binding", place::basicsize::<Binding>(), 0, &mut slots)
    })?;
    // SAFETY: a new object, whose fields are set before it is seen. It is never freed (its class
    // lives for ever), and so holds its references for ever: one extra reference sees to that.
    unsafe {
        let new = ffi::PyType_GenericAlloc(class.bind(py).as_type_ptr(), 0);
        let descriptor = Bound::from_owned_ptr_or_err(py, new)?;
        let (function, most) = (function::<M>(), most as ffi::Py_ssize_t);
        let (plain, owner) = (plain.into_ptr(), owner.as_type_ptr());
        place::fields::<Binding>(new).write(Binding { function, most, plain, bound, owner });
        ffi::Py_INCREF(new);
        Ok(descriptor)
    }
}
