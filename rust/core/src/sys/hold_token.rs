//! Does any process hold this token still?
//!
//! A token is an empty memfd. Whoever has its [`HoldToken`] holds it: as a descriptor, in a message
//! under way, or as a mapping, which a forked child inherits, as its own children do, and which
//! survives `closerange`. exec and death drop both. The opener keeps the [`HoldWatch`] and asks it.
//! The kernel answers without anybody's help, in one of two ways:
//!
//! - by a [lease], which sees descriptors, messages and mappings;
//! - where there are no leases, by a seal against writes, which fails with EBUSY as long as one
//!   writable mapping exists. It sees mappings only, so such a token is good for forks but must not
//!   travel. A seal that succeeds spoils nothing, for then the token is done.
//!
//! | what | who has it | becomes |
//! |---|---|---|
//! | `HoldWatch` | the opener, until it is found gone | closed in a forked child |
//! | `HoldToken` | the opener while it admits holders, then holders | gone with the last one |
//!
//! A process that dies at any point drops what it has: that can only make the token gone when it
//! is.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{MemfdFlags, OFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fcntl_getfl, ftruncate};

use crate::error::{Error, Result};
use crate::sys::mapping::Mapping;
use crate::sys::verified_fd::VerifiedFd;
use crate::sys::{lease, memfd};

const NAME: &str = "fastmp-hold-token";
const BYTES: usize = 4096;

/// The opener's side of a token.
#[derive(Debug)]
pub struct HoldWatch {
    fd: VerifiedFd,
    proof: Proof,
}

#[derive(Debug, Clone, Copy)]
enum Proof {
    Lease,
    Seal,
}

/// The holders' side of a token.
#[derive(Debug)]
pub struct HoldToken {
    /// None: it does not travel.
    fd: Option<VerifiedFd>,
    mapping: OnceLock<Mapping>,
}

impl HoldWatch {
    /// A token that can travel.
    ///
    /// # Errors
    /// `Os`: no leases here, or no descriptor left.
    pub fn open() -> Result<(HoldWatch, HoldToken)> {
        let (writer, reader) = lease::pair(NAME)?;
        let watch = HoldWatch { fd: VerifiedFd::new(reader)?, proof: Proof::Lease };
        Ok((watch, HoldToken { fd: Some(VerifiedFd::new(writer)?), mapping: OnceLock::new() }))
    }

    /// A token for forked children: it travels if that is possible here, and is mapped in any case.
    ///
    /// # Errors
    /// `Os` when descriptors have run out, or `OutOfMemory`.
    pub fn open_for_forks() -> Result<(HoldWatch, HoldToken)> {
        if let Ok((watch, pass)) = Self::open() {
            pass.map()?;
            return Ok((watch, pass));
        }
        let fd = memfd::empty(NAME, MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, BYTES as u64)?;
        let mapping = OnceLock::from(Mapping::new(&fd, 0, BYTES)?);
        Ok((HoldWatch { fd: VerifiedFd::new(fd)?, proof: Proof::Seal }, HoldToken { fd: None, mapping }))
    }

    /// Certainly nobody holds it any more (an error of the kernel's proves nothing).
    pub fn is_unheld(&self) -> bool {
        let Some(fd) = self.fd.get() else { return false };
        match self.proof {
            Proof::Lease => lease::is_unwritten(fd),
            Proof::Seal => fcntl_add_seals(fd, SealFlags::WRITE).is_ok(),
        }
    }
}

impl HoldToken {
    /// The pass that came with a handle, already mapped: from now on only exec, death or `drop` end
    /// this hold.
    ///
    /// # Errors
    /// `Corrupted` if it can be no token; `OutOfMemory`.
    pub fn receive(fd: OwnedFd) -> Result<HoldToken> {
        // What a peer sends may be anything: only a memfd open for writing can be a pass.
        let writes = fcntl_getfl(&fd).is_ok_and(|flags| flags.contains(OFlags::RDWR));
        if !writes || fcntl_get_seals(&fd).is_err() {
            return Err(Error::Corrupted("the descriptor is no pass"));
        }
        let pass = HoldToken { fd: Some(VerifiedFd::new(fd)?), mapping: OnceLock::new() };
        pass.map()?;
        Ok(pass)
    }

    /// Hold it by a mapping, too.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn map(&self) -> Result<()> {
        if let (None, Some(fd)) = (self.mapping.get(), &self.fd) {
            let fd = fd.get().ok_or(Error::Os(rustix::io::Errno::BADF))?;
            let _ = self.mapping.set(Mapping::inert(fd)?);
        }
        Ok(())
    }

    /// To send it on: its descriptor, unless it has none or the number is someone else's by now.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref()?.get()
    }

    /// The same, whosever it is by now.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }
}
