//! The fast path of the hottest methods, straight on the interpreter's C API.

pub mod bound_method;
pub mod call;
pub mod construct;
pub mod fast_methods;
pub mod operator;
