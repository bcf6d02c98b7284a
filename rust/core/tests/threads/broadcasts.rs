//! Broadcasts between threads: two senders, two readers that both look at what each message says.
//! Named as queues are, for Miri: they too need files, and real time.

use std::sync::Arc;
use std::sync::Mutex;

use fastmp_core::Error;
use fastmp_core::channel::broadcast::{Broadcast, Lag};
use fastmp_core::channel::ring::Payload;

use crate::common::Dice;
use crate::{some_len, soon, times, together};

const SENDERS: usize = 2;
const READERS: usize = 2;

/// Sends where three numbers lie, which every reader looks at, and so many bytes.
fn send(broadcast: &Broadcast, from: usize, number: u64, len: usize, sent: &Mutex<Vec<u64>>) {
    let at = Box::into_raw(Box::new([from as u64, number, len as u64])) as u64;
    sent.lock().unwrap().push(at);
    let mut bytes = at.to_le_bytes().to_vec();
    bytes.resize(len.max(8), number as u8);
    broadcast.send(7, &mut Some(Payload::Inline(&bytes)), soon()).unwrap();
}

/// From whom, and the number.
fn open(bytes: &[u8]) -> (usize, u64) {
    let at = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    // SAFETY: it lives to the end of the test; that it was written before is what is tested.
    let [from, number, len] = unsafe { *(at as *const [u64; 3]) };
    assert_eq!(bytes.len(), len.max(8) as usize, "message {number} of {from}");
    assert!(bytes[8..].iter().all(|&byte| byte == number as u8), "message {number} of {from} came damaged");
    (from as usize, number)
}

fn broadcast(lag: Lag, rounds: u64) {
    let broadcast = Arc::new(Broadcast::create(4, 0, lag).unwrap());
    let readers: Vec<_> = (0..READERS).map(|_| broadcast.reader(soon()).unwrap()).collect();
    let (sent, left) = (Mutex::new(Vec::new()), Mutex::new(SENDERS));
    together(SENDERS + READERS, |who| {
        let mut dice = Dice(who as u64);
        if who < SENDERS {
            for number in 0..rounds {
                send(&broadcast, who, number, some_len(&mut dice).min(60_000), &sent);
            }
            let mut left = left.lock().unwrap();
            *left -= 1;
            if *left == 0 {
                broadcast.shut(soon()).unwrap();
            }
            return;
        }
        let (reader, mut next, mut came) = (&readers[who - SENDERS], [0; SENDERS], 0);
        loop {
            let mut bytes = Vec::new();
            let mut message = match reader.recv(&mut bytes, soon()) {
                Err(Error::PeerGone) => break,
                message => message.unwrap(),
            };
            if let Some((hold, len)) = message.received.extent.as_deref() {
                bytes.resize(*len, 0);
                hold.read(0, &mut bytes).unwrap();
            }
            if let Some(pin) = message.pin.take() {
                pin.finish().unwrap();
            }
            let (sender, number) = open(&bytes);
            assert!(number >= next[sender], "{sender}'s {number} after {}", next[sender]);
            assert!(number == next[sender] || lag == Lag::Skip, "{sender}'s {} is missing", next[sender]);
            next[sender] = number + 1;
            came += 1;
        }
        assert_eq!(came + reader.missed(soon()).unwrap(), SENDERS as u64 * rounds);
    });
    for at in sent.into_inner().unwrap() {
        // SAFETY: made by `send`, once each.
        drop(unsafe { Box::from_raw(at as *mut [u64; 3]) });
    }
}

#[test]
fn queue_broadcast_that_blocks() {
    let _turn = crate::common::turn();
    broadcast(Lag::Block, times(2000));
}

#[test]
fn queue_broadcast_that_skips() {
    let _turn = crate::common::turn();
    broadcast(Lag::Skip, times(2000));
}
