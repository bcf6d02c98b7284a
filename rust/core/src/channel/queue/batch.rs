//! Several messages at a time: one lock for some 64 KiB of them, one wake-up.

use std::os::fd::{AsFd, OwnedFd};

use super::Queue;
use crate::channel::ring::{MessageMeta, Received};
use crate::channel::transport::{BatchMessage, Outgoing};
use crate::deadline::{Graced, Patience};
use crate::error::{Error, Result};
use crate::kill_point;

/// What a look for several messages has found.
#[derive(Debug)]
pub enum Found {
    /// So many, whose bytes are in the scratch that was given.
    Run(usize),
    /// One, with its bytes unless they are in an extent, and its descriptors.
    One(Received, Vec<u8>, Vec<OwnedFd>),
}

impl Queue {
    /// Put those from `done` on, each counted there as it is put, without sleeping.
    ///
    /// # Errors
    /// Those of [`try_put`](Self::try_put), for the first that is not put.
    pub fn try_put_many(&self, messages: &mut [BatchMessage<'_>], done: &mut usize) -> Result<()> {
        if self.ring().state().not_full.is_reserved() || self.is_room_held() {
            return Err(Error::WouldBlock);
        }
        self.put_rest(messages, done, Patience::Spin)
    }

    /// The same, waiting until the deadline for room.
    ///
    /// # Errors
    /// Those of [`put`](Self::put).
    pub fn put_many(
        &self,
        messages: &mut [BatchMessage<'_>],
        done: &mut usize,
        until: impl Into<Graced>,
    ) -> Result<()> {
        let until = until.into();
        self.wait_to_put(until.deadline(), || self.put_rest(messages, done, Patience::Sleep(until)))
    }

    fn put_rest(&self, messages: &mut [BatchMessage<'_>], done: &mut usize, patience: Patience) -> Result<()> {
        while let Some(rest) = messages.get_mut(*done..).filter(|rest| !rest.is_empty()) {
            let put = self.with_found_file(|| self.transport.send_many(self.writer.as_fd(), rest, patience))?;
            *done += put;
            if put > 0 {
                kill_point!("queue.batch.before_wake");
                self.ring().state().not_empty.notify();
                continue;
            }
            // The first one is not of the simple kind.
            let one = &mut rest[0];
            let mut outgoing = Outgoing { meta: one.meta, payload: &mut one.payload, fds: &one.fds };
            self.put_once(&mut outgoing, patience)?;
            *done += 1;
        }
        Ok(())
    }

    /// Get what is there, `most` messages at most and as many as one lock is held for, without
    /// sleeping. See [`GetGuard::get_run`](crate::channel::ring::GetGuard::get_run).
    ///
    /// # Errors
    /// Those of [`try_get`](Self::try_get).
    pub fn try_get_many(
        &self,
        scratch: &mut Vec<u8>,
        metas: &mut Vec<(MessageMeta, usize)>,
        most: usize,
    ) -> Result<Found> {
        if self.ring().state().not_empty.is_reserved() {
            return Err(Error::WouldBlock);
        }
        self.get_some(scratch, metas, most, Patience::Spin)
    }

    /// The same, waiting until the deadline for the first.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn get_many(
        &self,
        scratch: &mut Vec<u8>,
        metas: &mut Vec<(MessageMeta, usize)>,
        most: usize,
        until: impl Into<Graced>,
    ) -> Result<Found> {
        let until = until.into();
        let attempt = || self.get_some(scratch, metas, most, Patience::Sleep(until));
        self.wait_to_get(until, attempt)
    }

    fn get_some(
        &self,
        scratch: &mut Vec<u8>,
        metas: &mut Vec<(MessageMeta, usize)>,
        most: usize,
        patience: Patience,
    ) -> Result<Found> {
        if let Some(keeper) = self.keeper.get() {
            return self.with_found_file(|| self.get_some_kept(keeper, scratch, metas, most, patience));
        }
        let taker = self.taker();
        let taking = |tasks| {
            if let Some(taker) = taker {
                taker.takes(tasks);
            }
        };
        let got = self
            .with_found_file(|| self.transport.recv_many(self.reader.as_fd(), scratch, metas, most, patience, taking));
        match got {
            Ok(0) => {
                let (mut bytes, mut fds) = (Vec::new(), Vec::new());
                let received = self.get_once(&mut bytes, &mut fds, patience, false)?;
                if received.extent.is_none() && fds.is_empty() {
                    metas.push((received.meta, bytes.len()));
                    scratch.extend_from_slice(&bytes);
                    return Ok(Found::Run(1));
                }
                Ok(Found::One(received, bytes, fds))
            }
            Ok(many) => {
                // Who is woken hands it on while there is room.
                self.has_got();
                Ok(Found::Run(many))
            }
            Err(Error::Empty) => Err(self.after_nothing(patience)),
            Err(e) => Err(e),
        }
    }
}
