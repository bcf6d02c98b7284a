//! The interpreter's calling conventions, once each.
//!
//! PyO3's methods check and convert more than a method needs that takes some 10 ns in all. So the
//! hottest are types that implement [`Method`], [`Property`] or [`Container`], in safe code. What
//! the interpreter calls is a trampoline, compiled for each of them from those under
//! `trampolines!`. Nothing may unwind out of one: a panic ends the process.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};
use std::ptr;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::types::{PyDict, PyTuple, PyType};
use pyo3::{PyClass, PyTypeInfo};

/// The interpreter has an exception set.
#[derive(Debug)]
pub struct Raised(());

impl From<PyErr> for Raised {
    #[cold]
    #[inline(never)]
    fn from(error: PyErr) -> Raised {
        Python::attach(|py| error.restore(py));
        Raised(())
    }
}

impl Raised {
    /// Raise an exception of this class, without arguments.
    pub fn bare(class: &Bound<'_, PyType>) -> Raised {
        // SAFETY: attached; a class. If it is none of an exception, that is the exception.
        unsafe { ffi::PyErr_SetNone(class.as_ptr()) };
        Raised(())
    }

    /// Ok unless an exception is set.
    pub fn check(py: Python<'_>) -> Result<(), Raised> {
        PyErr::take(py).map_or(Ok(()), |error| Err(error.into()))
    }
}

/// What a method gives back: no larger than a pointer.
pub type Answer<'py> = Result<Bound<'py, PyAny>, Raised>;

/// A new reference that a C function has made, or the exception that it has set.
///
/// # Safety
/// `new` is one of the two.
#[inline(always)]
pub unsafe fn made(py: Python<'_>, new: *mut ffi::PyObject) -> Answer<'_> {
    // SAFETY: the caller's.
    unsafe { Bound::from_owned_ptr_or_opt(py, new) }.ok_or(Raised(()))
}

/// The arguments of a call, borrowed from the caller.
#[derive(Clone, Copy)]
pub struct Args<'a, 'py> {
    all: *const *mut ffi::PyObject,
    /// How many are given by position; those given by name are behind them.
    count: usize,
    names: Option<Borrowed<'a, 'py, PyTuple>>,
    py: Python<'py>,
}

impl<'a, 'py> Args<'a, 'py> {
    /// None at all.
    #[inline(always)]
    pub fn none(py: Python<'py>) -> Self {
        Args { all: ptr::null(), count: 0, names: None, py }
    }

    /// How many are given by position.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.count
    }

    /// The names of those that are given by name.
    #[inline(always)]
    pub fn names(&self) -> Option<Borrowed<'a, 'py, PyTuple>> {
        self.names
    }

    /// Argument `i`, first those given by position, then those given by name.
    #[inline(always)]
    pub fn get(&self, i: usize) -> Option<Borrowed<'a, 'py, PyAny>> {
        let named = self.names.map_or(0, |names| names.len());
        // SAFETY: there are so many; each is an object that the caller keeps during the call.
        (i < self.count + named).then(|| unsafe { Borrowed::from_ptr(self.py, *self.all.add(i)) })
    }
}

/// A method of the class `Of`, or of its instances the slot for items by key.
pub trait Method {
    /// A class of ours.
    type Of: PyClass<Frozen = True> + Sync;
    /// The call.
    fn call<'py>(slf: Borrowed<'_, 'py, Self::Of>, args: Args<'_, 'py>) -> Answer<'py>;
}

/// An attribute of the instances of `Of`.
pub trait Property {
    /// A class of ours.
    type Of: PyClass<Frozen = True> + Sync;
    /// Its value.
    fn get<'py>(slf: Borrowed<'_, 'py, Self::Of>) -> Answer<'py>;
    /// Set it, or delete it.
    fn set<'py>(slf: Borrowed<'_, 'py, Self::Of>, value: Option<Borrowed<'_, 'py, PyAny>>) -> Result<(), Raised>;
}

/// The items of a class's instances, and they as buffers.
pub trait Container {
    /// A class of ours.
    type Of: PyClass<Frozen = True> + Sync;
    /// How many.
    fn len(slf: Borrowed<'_, '_, Self::Of>) -> Result<usize, Raised>;
    /// What the interpreter takes by a key.
    fn get<'py>(slf: Borrowed<'_, 'py, Self::Of>, key: Borrowed<'_, 'py, PyAny>) -> Answer<'py>;
    /// Set it, or delete it.
    fn set<'py>(
        slf: Borrowed<'_, 'py, Self::Of>,
        key: Borrowed<'_, 'py, PyAny>,
        value: Option<Borrowed<'_, 'py, PyAny>>,
    ) -> Result<(), Raised>;
    /// What a loop takes, by a number.
    fn item<'py>(slf: Borrowed<'_, 'py, Self::Of>, i: isize) -> Answer<'py>;
    /// Whose buffer it is, and a format to be shown instead of that one's.
    fn buffer<'py>(slf: Borrowed<'_, 'py, Self::Of>) -> Result<(Bound<'py, PyAny>, Option<&'static CStr>), Raised>;
}

/// What C calls: the object first, whose type the descriptor or the slot has checked.
macro_rules! trampolines {
    ($($(#[$about:meta])*
       $name:ident<$t:ident: $bound:ident>($slf:ident $(, $arg:ident: $type:ty)*) -> $answer:ty { $work:expr })*) => {$(
        $(#[$about])*
        unsafe extern "C" fn $name<$t: $bound>($slf: *mut ffi::PyObject $(, $arg: $type)*) -> $answer {
            // SAFETY: the interpreter calls attached. The object is an instance of the class that
            // `method`, `property` or `subclass` was given, which is `Of` or derived from it. The
            // other pointers are to objects, or null where the convention says so. All of them are
            // kept during the call.
            unsafe {
                let $slf: Borrowed<'_, '_, $t::Of> =
                    Borrowed::from_ptr(Python::assume_attached(), $slf).cast_unchecked();
                $work
            }
        }
    )*};
}

trampolines! {
    /// Without arguments.
    plain<M: Method>(slf, _none: *mut ffi::PyObject) -> *mut ffi::PyObject {
        pointer(M::call(slf, Args::none(slf.py())))
    }
    /// An operator with one operand.
    unary<M: Method>(slf) -> *mut ffi::PyObject { pointer(M::call(slf, Args::none(slf.py()))) }
    /// With one.
    one<M: Method>(slf, arg: *mut ffi::PyObject) -> *mut ffi::PyObject {
        pointer(M::call(slf, Args { all: &raw const arg, count: 1, names: None, py: slf.py() }))
    }
    /// With any number, by position.
    fast<M: Method>(slf, all: *mut *mut ffi::PyObject, count: ffi::Py_ssize_t) -> *mut ffi::PyObject {
        pointer(M::call(slf, Args { all, count: count as usize, names: None, py: slf.py() }))
    }
    /// By position and by name.
    named<M: Method>(
        slf, all: *const *mut ffi::PyObject, count: ffi::Py_ssize_t, names: *mut ffi::PyObject
    ) -> *mut ffi::PyObject {
        {
            let names = Borrowed::from_ptr_or_opt(slf.py(), names).map(|names| names.cast_unchecked());
            pointer(M::call(slf, Args { all, count: count as usize, names, py: slf.py() }))
        }
    }
    getter<P: Property>(slf, _closure: *mut c_void) -> *mut ffi::PyObject { pointer(P::get(slf)) }
    setter<P: Property>(slf, value: *mut ffi::PyObject, _closure: *mut c_void) -> c_int {
        status(P::set(slf, Borrowed::from_ptr_or_opt(slf.py(), value)))
    }
    length<C: Container>(slf) -> ffi::Py_ssize_t { C::len(slf).map_or(-1, |len| len as ffi::Py_ssize_t) }
    subscript<C: Container>(slf, key: *mut ffi::PyObject) -> *mut ffi::PyObject {
        pointer(C::get(slf, Borrowed::from_ptr(slf.py(), key)))
    }
    set_subscript<C: Container>(slf, key: *mut ffi::PyObject, value: *mut ffi::PyObject) -> c_int {
        status(C::set(slf, Borrowed::from_ptr(slf.py(), key), Borrowed::from_ptr_or_opt(slf.py(), value)))
    }
    item<C: Container>(slf, i: ffi::Py_ssize_t) -> *mut ffi::PyObject { pointer(C::item(slf, i)) }
    /// For those in C who ask for it; the interpreter itself has no use for it.
    set_item<C: Container>(slf, i: ffi::Py_ssize_t, value: *mut ffi::PyObject) -> c_int {
        status(made(slf.py(), ffi::PyLong_FromSsize_t(i)).and_then(|key| {
            C::set(slf, key.as_borrowed(), Borrowed::from_ptr_or_opt(slf.py(), value))
        }))
    }
    /// Another object's buffer: it is what the view keeps.
    buffer<C: Container>(slf, view: *mut ffi::Py_buffer, flags: c_int) -> c_int {
        {
            (*view).obj = ptr::null_mut();
            let Ok((exporter, format)) = C::buffer(slf) else { return -1 };
            let status = ffi::PyObject_GetBuffer(exporter.as_ptr(), view, flags);
            if let Some(format) = format && status == 0 && !(*view).format.is_null() {
                // Nobody frees either.
                (*view).format = format.as_ptr().cast_mut();
            }
            status
        }
    }
}

#[inline(always)]
fn pointer(answer: Answer<'_>) -> *mut ffi::PyObject {
    answer.map_or(ptr::null_mut(), Bound::into_ptr)
}

#[inline(always)]
fn status(done: Result<(), Raised>) -> c_int {
    if done.is_ok() { 0 } else { -1 }
}

/// How a method is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Convention {
    /// Without arguments.
    Plain,
    /// With exactly one.
    One,
    /// With any number, by position.
    Fast,
    /// By position and by name.
    Named,
}

/// The C function of a method that looks at no argument.
pub fn function<M: Method>() -> ffi::PyCFunction {
    plain::<M>
}

/// Fails unless `class` is `T` or derived from it.
pub fn check<T: PyTypeInfo>(class: &Bound<'_, PyType>) -> PyResult<()> {
    // SAFETY: attached; both are types. (`issubclass` would look for Python code that answers.)
    let derived = unsafe { ffi::PyType_IsSubtype(class.as_type_ptr(), T::type_object_raw(class.py())) } != 0;
    if derived { Ok(()) } else { Err(PyTypeError::new_err("a class of another kind")) }
}

/// A descriptor of the method `M` for `class`, which is `M::Of` or a subclass.
pub fn method<'py, M: Method>(
    class: &Bound<'py, PyType>,
    name: &'static CStr,
    convention: Convention,
    doc: &'static CStr,
) -> PyResult<Bound<'py, PyAny>> {
    check::<M::Of>(class)?;
    let (ml_meth, ml_flags) = match convention {
        Convention::Plain => (ffi::PyMethodDefPointer { PyCFunction: plain::<M> }, ffi::METH_NOARGS),
        Convention::One => (ffi::PyMethodDefPointer { PyCFunction: one::<M> }, ffi::METH_O),
        Convention::Fast => (ffi::PyMethodDefPointer { PyCFunctionFast: fast::<M> }, ffi::METH_FASTCALL),
        Convention::Named => (
            ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: named::<M> },
            ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
        ),
    };
    // A descriptor refers to its definition for as long as the class lives: for ever.
    let definition = ffi::PyMethodDef { ml_name: name.as_ptr(), ml_meth, ml_flags, ml_doc: doc.as_ptr() };
    let definition = Box::leak(Box::new(definition));
    // SAFETY: the flags are those of the function, which takes an instance of the class.
    unsafe {
        let new = ffi::PyDescr_NewMethod(class.as_type_ptr(), definition);
        Bound::from_owned_ptr_or_err(class.py(), new)
    }
}

/// A descriptor of the attribute `P` for `class`, which is `P::Of` or a subclass.
pub fn property<'py, P: Property>(
    class: &Bound<'py, PyType>,
    name: &'static CStr,
    doc: &'static CStr,
) -> PyResult<Bound<'py, PyAny>> {
    check::<P::Of>(class)?;
    let definition = Box::leak(Box::new(ffi::PyGetSetDef {
        name: name.as_ptr(),
        get: Some(getter::<P>),
        set: Some(setter::<P>),
        doc: doc.as_ptr(),
        closure: ptr::null_mut(),
    }));
    // SAFETY: the definition lives for ever, and its functions take an instance of the class.
    unsafe {
        let new = ffi::PyDescr_NewGetSet(class.as_type_ptr(), definition);
        Bound::from_owned_ptr_or_err(class.py(), new)
    }
}

/// Slots of a subclass of `T`.
pub struct Slots<T> {
    slots: Vec<ffi::PyType_Slot>,
    of: std::marker::PhantomData<T>,
}

impl<T> Slots<T> {
    /// None: all is inherited.
    pub fn none() -> Self {
        Self::of([])
    }

    /// These, each with a function that takes an instance of `T` or a class derived from it.
    pub(super) fn of<const N: usize>(slots: [(c_int, *mut c_void); N]) -> Self {
        let slots = slots.into_iter().map(|(slot, pfunc)| ffi::PyType_Slot { slot, pfunc }).collect();
        Slots { slots, of: std::marker::PhantomData }
    }

    /// And these.
    pub(super) fn and(mut self, more: Slots<T>) -> Self {
        self.slots.extend(more.slots);
        self
    }
}

/// The slot for items by key, and no other: `object[key]` is a call of `M`, after which the
/// interpreter does not look for signals.
pub fn by_key<M: Method>() -> Slots<M::Of> {
    Slots::of([(ffi::Py_mp_subscript, one::<M> as *mut c_void)])
}

/// The slot for `~`, and no other: `~object` is a call of `M`, likewise.
pub fn inverted<M: Method>() -> Slots<M::Of> {
    let slots = vec![ffi::PyType_Slot { slot: ffi::Py_nb_invert, pfunc: unary::<M> as *mut c_void }];
    Slots { slots, of: std::marker::PhantomData }
}

/// The slots for items and for the buffer.
pub fn container<C: Container>() -> Slots<C::Of> {
    Slots::of([
        (ffi::Py_mp_length, length::<C> as *mut c_void),
        (ffi::Py_mp_subscript, subscript::<C> as *mut c_void),
        (ffi::Py_mp_ass_subscript, set_subscript::<C> as *mut c_void),
        (ffi::Py_sq_length, length::<C> as *mut c_void),
        (ffi::Py_sq_item, item::<C> as *mut c_void),
        (ffi::Py_sq_ass_item, set_item::<C> as *mut c_void),
        (ffi::Py_bf_getbuffer, buffer::<C> as *mut c_void),
    ])
}

/// A subclass of `T` with these slots and no other state, to be subclassed in its turn.
pub fn subclass<'py, T: PyTypeInfo>(
    py: Python<'py>,
    name: &'static CStr,
    slots: Slots<T>,
) -> PyResult<Bound<'py, PyType>> {
    let mut slots = slots.slots;
    slots.push(ffi::PyType_Slot { slot: 0, pfunc: ptr::null_mut() });
    let mut spec = ffi::PyType_Spec {
        name: name.as_ptr(),
        basicsize: 0,
        itemsize: 0,
        flags: (ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_BASETYPE) as _,
        slots: slots.as_mut_ptr(),
    };
    let base = py.get_type::<T>();
    // SAFETY: a complete spec, which outlives the call; size, memory and collection are inherited.
    // The slots take an instance of `T`.
    let class = unsafe {
        let new = ffi::PyType_FromSpecWithBases(&mut spec, base.as_ptr());
        Bound::from_owned_ptr_or_err(py, new)?
    };
    Ok(class.cast_into()?)
}

/// The function in a slot of `T`, as the type that functions in such a slot have.
///
/// # Safety
/// PyO3 fills the slot, and `F` is that type.
#[inline(always)]
pub(super) unsafe fn slot<T: PyTypeInfo, F: Copy>(py: Python<'_>, slot: c_int) -> F {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: the caller's.
    unsafe {
        let function = ffi::PyType_GetSlot(T::type_object_raw(py), slot);
        std::mem::transmute_copy::<*mut c_void, F>(&function)
    }
}

/// An instance of `class`, a subclass of `T`, for which `__init__` is not called, by the `__new__`
/// of `T` with these arguments.
pub fn bare_instance<'py, T: PyTypeInfo>(
    class: &Bound<'py, PyType>,
    named: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    check::<T>(class)?;
    let py = class.py();
    let (none, named) = (PyTuple::empty(py), named.map_or(ptr::null_mut(), |named| named.as_ptr()));
    // SAFETY: a class that can be called has the slot, which takes a class derived from its own, a
    // tuple, and a dict or null.
    unsafe {
        let new: ffi::newfunc = slot::<T, _>(py, ffi::Py_tp_new);
        Bound::from_owned_ptr_or_err(py, new(class.as_type_ptr(), none.as_ptr(), named))
    }
}

/// Leave it to the method `name` of `slf`, written in Python or with PyO3.
#[cold]
#[inline(never)]
pub fn call_python<'py>(slf: &Bound<'py, PyAny>, name: &str, args: Args<'_, 'py>) -> Answer<'py> {
    let py = slf.py();
    let given: Vec<_> = (0..args.len()).filter_map(|i| args.get(i)).collect();
    let names = args.names().map(|names| {
        let named = PyDict::new(py);
        for (i, name) in names.iter().enumerate() {
            if let Some(arg) = args.get(args.len() + i) {
                named.set_item(name, arg)?;
            }
        }
        Ok::<_, PyErr>(named)
    });
    Ok(slf.getattr(name)?.call(PyTuple::new(py, given)?, names.transpose()?.as_ref())?)
}
