//! The classes of `fastmp.sharedctypes`.

pub mod array;
pub mod guarded;
pub mod memory;
pub mod scalar;
pub mod value;
