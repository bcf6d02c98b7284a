//! Named points at which a test can stop a process: compiled in by the feature `kill-points` only.

/// Does nothing, or, in tests, stops the process here if a test has armed this point.
#[macro_export]
macro_rules! kill_point {
    ($name:literal) => {
        #[cfg(all(feature = "kill-points", not(loom)))]
        $crate::fault::reached($name);
    };
}

/// May the kernel be asked for leases? Always, unless a test wants it to be as on a system without
/// them.
#[cfg(not(feature = "kill-points"))]
#[inline(always)]
pub fn leases() -> bool {
    true
}

#[cfg(feature = "kill-points")]
mod armed {
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// What happens at an armed point.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Action {
        /// SIGKILL to this process.
        Kill,
        /// SIGSTOP to this process: a test may look, then continue or kill it.
        Stop,
        /// This thread waits here, and no other, until [`let_go`].
        Hold,
    }

    static HOLDING: AtomicBool = AtomicBool::new(false);

    /// Does a thread wait at its point?
    pub fn is_holding() -> bool {
        HOLDING.load(Ordering::SeqCst)
    }

    /// Have it go on.
    pub fn let_go() {
        HOLDING.store(false, Ordering::SeqCst);
    }

    fn hold() {
        HOLDING.store(true, Ordering::SeqCst);
        while is_holding() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    static ANY: AtomicBool = AtomicBool::new(false);
    static POINTS: Mutex<VecDeque<(String, u32, Action)>> = Mutex::new(VecDeque::new());

    static NO_LEASES: AtomicBool = AtomicBool::new(false);

    /// From now on, as if this system had no leases; or as it is.
    pub fn deny_leases(deny: bool) {
        NO_LEASES.store(deny, Ordering::SeqCst);
    }

    /// May the kernel be asked for leases?
    pub fn leases() -> bool {
        !NO_LEASES.load(Ordering::SeqCst)
    }

    /// Arm `name`: the `nth` time (from 1) that this process reaches it, `action` happens.
    pub fn arm(name: &str, nth: u32, action: Action) {
        arm_in_turn(&[(name, nth, action)]);
    }

    /// Arm several: each from when the one before it has been reached.
    pub fn arm_in_turn(points: &[(&str, u32, Action)]) {
        if let Ok(mut armed) = POINTS.lock() {
            *armed = points.iter().map(|&(name, nth, action)| (name.to_owned(), nth, action)).collect();
        }
        ANY.store(true, Ordering::SeqCst);
    }

    /// Called by `kill_point!`.
    pub fn reached(name: &str) {
        if !ANY.load(Ordering::Relaxed) {
            return;
        }
        let Ok(mut points) = POINTS.lock() else { return };
        let Some((armed, left, action)) = points.front_mut() else { return };
        if armed != name {
            return;
        }
        *left -= 1;
        if *left == 0 {
            let action = *action;
            points.pop_front();
            drop(points);
            let signal = match action {
                Action::Kill => rustix::process::Signal::KILL,
                Action::Stop => rustix::process::Signal::STOP,
                Action::Hold => return hold(),
            };
            let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
        }
    }
}

#[cfg(feature = "kill-points")]
pub use armed::{Action, arm, arm_in_turn, deny_leases, is_holding, leases, let_go, reached};
