//! A queue's memory file, found or made: see [`file`](crate::channel::file).

use super::Queue;
use crate::channel::file::{self, NO_FILE};
use crate::error::{Error, Result};
use crate::kill_point;
use crate::sys::socket::{self, Packet};

/// The file is not where it has to be: the program has taken it out.
const MISSING: Error = Error::Corrupted("the queue's memory file is missing");

impl Queue {
    /// Attempt it. If it wants the file, find that, or make one, and attempt it again.
    pub(super) fn with_made_file<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        match attempt() {
            Err(NO_FILE) => {
                self.make_file()?;
                attempt()
            }
            done => done,
        }
    }

    /// The same, of what can only want a file that there is.
    pub(super) fn with_found_file<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        match attempt() {
            Err(NO_FILE) if self.find_file()? => attempt(),
            Err(NO_FILE) => Err(MISSING),
            done => done,
        }
    }

    /// Is the file there? This process has it then.
    pub(super) fn find_file(&self) -> Result<bool> {
        if self.file().is_known() {
            return Ok(true);
        }
        match socket::peek(&self.writer)? {
            Packet::File(Some(fd)) => self.file().adopt(fd).map(|()| true),
            Packet::File(None) => Err(Error::Os(rustix::io::Errno::MFILE)),
            Packet::None => Ok(false),
            _ => Err(MISSING),
        }
    }

    #[cold]
    fn make_file(&self) -> Result<()> {
        if cfg!(miri) {
            // Descriptors do not travel there.
            self.file().set(file::create("fastmp-queue")?);
            return Ok(());
        }
        // First: another may make it, and use it, between the two looks.
        let were_used = self.extents.were_used();
        kill_point!("file.looking");
        if self.find_file()? {
            return Ok(());
        }
        if were_used {
            return Err(MISSING);
        }
        let new = file::create("fastmp-queue")?;
        kill_point!("file.made");
        // Commit point, if it is the first one there.
        if !socket::send_file(&self.reader, new.own_fd()?)? {
            return Err(Error::Os(rustix::io::Errno::TOOMANYREFS));
        }
        kill_point!("file.parked");
        // Whichever is first comes out of the socket, and its descriptor may be the last to be had.
        drop(new);
        if self.find_file()? { Ok(()) } else { Err(MISSING) }
    }

    /// Give back what the dead held and what nobody uses.
    pub(super) fn tend(&self) {
        // Those who had the file may all be dead.
        if self.extents.were_used() {
            let _ = self.find_file();
        }
        self.extents.tend();
    }
}
