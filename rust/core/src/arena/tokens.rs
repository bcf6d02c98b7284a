//! Numbered tokens that somebody may hold.

use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::sys::hold_token::{HoldToken, HoldWatch};

/// Ask after tokens when so many numbers have come.
const ASK_AT: u64 = 8;
/// With each so many tokens, twice as many numbers share the next one: 25 tokens for 300 children
/// that live, and four more whenever the children double. A token that somebody holds on to keeps
/// what its numbers reach from being used again, so that few share one while few live.
const DOUBLE_AT: usize = 4;

#[derive(Debug)]
struct Token {
    /// It stands for these: more than one where tokens are shared, or no other could be opened.
    numbers: RangeInclusive<u64>,
    watch: HoldWatch,
}

/// Tokens by number, oldest first. Numbers start at 1 and only grow; those of tokens found gone are
/// left out.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    tokens: Vec<Token>,
    newest: u64,
    /// The newest token's other side, while it admits holders.
    open: Option<Arc<HoldToken>>,
    /// The newest when last asked after.
    asked: u64,
    /// How many were left then.
    left: u64,
}

impl Tokens {
    /// The newest number; 0: none yet.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// What a new holder gets.
    pub fn open(&self) -> Option<&Arc<HoldToken>> {
        self.open.as_ref()
    }

    /// Is the open token to stand for one more number?
    pub fn has_room(&mut self) -> bool {
        self.ask();
        let most = 1u64 << (self.tokens.len() / DOUBLE_AT).min(32);
        let shared = |token: &Token| 1 + token.numbers.end() - token.numbers.start();
        self.open.is_some() && self.tokens.last().is_some_and(|token| shared(token) < most)
    }

    /// Forget those that nobody holds, if as many numbers have come since the last look as it left
    /// tokens: two questions for each. (As many as there are now never come, once one is left.)
    fn ask(&mut self) {
        if self.newest - self.asked >= ASK_AT.max(self.left) {
            self.drop_unheld();
        }
    }

    /// Another token, open; the one that was open is closed.
    pub fn add(&mut self, (watch, token): (HoldWatch, HoldToken)) {
        self.close();
        self.ask();
        self.newest += 1;
        self.tokens.push(Token { numbers: self.newest..=self.newest, watch });
        self.open = Some(Arc::new(token));
    }

    /// The next number without a token of its own: the open one, if there is one, stands for it
    /// too.
    pub fn stretch(&mut self) -> bool {
        self.newest += 1;
        match self.tokens.last_mut() {
            Some(token) if self.open.is_some() => {
                token.numbers = *token.numbers.start()..=self.newest;
                true
            }
            _ => false,
        }
    }

    /// Nobody else gets the newest.
    pub fn close(&mut self) {
        self.open = None;
    }

    /// Forget those that nobody holds.
    pub fn drop_unheld(&mut self) {
        let open = self.open.as_ref().map(|_| self.newest);
        self.tokens.retain(|token| Some(*token.numbers.end()) == open || !token.watch.is_unheld());
        self.asked = self.newest;
        self.left = self.tokens.len() as u64;
    }

    /// May anybody hold one of these? (As of the last look.)
    pub fn any_in(&self, numbers: &RangeInclusive<u64>) -> bool {
        let first = self.tokens.partition_point(|token| token.numbers.end() < numbers.start());
        self.tokens.get(first).is_some_and(|token| token.numbers.start() <= numbers.end())
    }

    /// In a forked child: what it has inherited of the opener's. The opener's own side is closed.
    pub fn inherit(self) -> Option<Arc<HoldToken>> {
        self.open
    }
}
