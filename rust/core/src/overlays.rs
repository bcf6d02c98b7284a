//! Which types may be overlaid on shared bytes, and the one way to declare another.
//!
//! A peer may write to shared memory at any time, and may write anything. So only atomics are ever
//! seen there, and structs and arrays of such types. [`overlay!`](crate::overlay) declares such a
//! struct: it forces `repr(C)`, and does not compile unless every field may be overlaid too. The
//! list is thus kept by the compiler, and nobody outside this file writes `unsafe impl`.
#![allow(unsafe_code)]

#[cfg(not(loom))]
use std::sync::atomic::{AtomicU8, AtomicU16};

#[cfg(not(loom))]
use crate::facade::{AtomicU32, AtomicU64, Word32, Word64};

/// A type that may be overlaid on shared bytes. Declare one with [`overlay!`](crate::overlay).
///
/// # Safety
/// Its layout is fixed (`repr(C)` or transparent), it is made of atomics alone, so that any bit
/// pattern is valid and a change by a peer is no data race, and its alignment is at most 64 bytes.
pub unsafe trait Overlay {}

// Loom's atomics are bookkeeping objects, not words: they are never overlaid.
#[cfg(not(loom))]
mod atomics {
    use super::*;

    // SAFETY: an atomic of the size of its integer.
    unsafe impl Overlay for AtomicU8 {}
    // SAFETY: as above.
    unsafe impl Overlay for AtomicU16 {}
    // SAFETY: as above.
    unsafe impl Overlay for AtomicU32 {}
    // SAFETY: as above.
    unsafe impl Overlay for AtomicU64 {}
    // SAFETY: a transparent wrapper of one.
    unsafe impl Overlay for Word32 {}
    // SAFETY: as above.
    unsafe impl Overlay for Word64 {}
    // SAFETY: one behind the other, without gaps.
    unsafe impl<T: Overlay, const N: usize> Overlay for [T; N] {}
    // SAFETY: as above.
    unsafe impl<T: Overlay> Overlay for [T] {}
}

/// Declares a struct that may be overlaid on shared memory: `repr(C)`, every field an
/// [`Overlay`](crate::overlays::Overlay).
///
/// All its bytes zero should be its state of rest, for that is what new memory holds.
///
/// ```
/// use std::sync::atomic::{AtomicU32, AtomicU64};
///
/// fastmp_core::overlay! {
///     /// What two processes count.
///     #[derive(Debug)]
///     pub struct Tally {
///         /// How often.
///         pub count: AtomicU64,
///         flags: [AtomicU32; 2],
///     }
/// }
/// assert_eq!(size_of::<Tally>(), 16);
/// ```
///
/// What a peer could make invalid does not compile:
///
/// ```compile_fail
/// fastmp_core::overlay! {
///     struct Wrong { name: String }
/// }
/// ```
#[macro_export]
macro_rules! overlay {
    (
        $(#[$about:meta])*
        $visible:vis struct $name:ident {
            $($(#[$about_field:meta])* $field_visible:vis $field:ident: $type:ty),* $(,)?
        }
    ) => {
        $(#[$about])*
        #[repr(C)]
        $visible struct $name { $($(#[$about_field])* $field_visible $field: $type),* }

        // SAFETY: repr(C), and made of types that may be overlaid themselves, as the constant below
        // demands.
        #[cfg(not(loom))]
        #[allow(unsafe_code)]
        unsafe impl $crate::overlays::Overlay for $name {}

        #[cfg(not(loom))]
        const _: () = {
            const fn demand<T: $crate::overlays::Overlay>() {}
            $(demand::<$type>();)*
            assert!(align_of::<$name>() <= 64);
        };
    };
    ($(#[$about:meta])* $visible:vis struct $name:ident($field_visible:vis $type:ty);) => {
        $(#[$about])*
        #[repr(transparent)]
        $visible struct $name($field_visible $type);

        // SAFETY: transparent, over a type that may be overlaid itself, as the constant below
        // demands.
        #[cfg(not(loom))]
        #[allow(unsafe_code)]
        unsafe impl $crate::overlays::Overlay for $name {}

        #[cfg(not(loom))]
        const _: () = {
            const fn demand<T: $crate::overlays::Overlay>() {}
            demand::<$type>();
        };
    };
}
