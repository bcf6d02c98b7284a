//! Has PyO3's conditions known here too: `Py_GIL_DISABLED` is the one that is used.

fn main() {
    pyo3_build_config::use_pyo3_cfgs();
}
