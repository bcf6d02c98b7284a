//! Bytes that grow: what `Vec` does, without a call for each small piece.
#![allow(unsafe_code)]

/// Room for one tag with its number, or for a short string.
const STEP: usize = 64;

/// Where the codec writes.
pub struct Sink<'a> {
    bytes: &'a mut Vec<u8>,
}

impl<'a> Sink<'a> {
    /// Writes onto the end of `bytes`.
    pub fn new(bytes: &'a mut Vec<u8>) -> Self {
        Sink { bytes }
    }

    #[inline(always)]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The byte at `at`, which is there.
    pub fn byte_mut(&mut self, at: usize) -> &mut u8 {
        &mut self.bytes[at]
    }

    /// Append them: a few stores, as `N` is known.
    #[inline(always)]
    pub fn put<const N: usize>(&mut self, piece: [u8; N]) {
        const { assert!(N <= STEP) };
        self.make_room();
        // SAFETY: there is room for `STEP` bytes behind the last one.
        unsafe {
            let len = self.bytes.len();
            self.bytes.as_mut_ptr().add(len).cast::<[u8; N]>().write(piece);
            self.bytes.set_len(len + N);
        }
    }

    #[inline(always)]
    fn make_room(&mut self) {
        if self.bytes.capacity() - self.bytes.len() < STEP {
            self.grow();
        }
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        self.bytes.reserve(STEP);
    }

    /// Append them after `tag`; they are fewer than 32.
    #[inline(always)]
    pub fn put_short(&mut self, tag: u8, piece: &[u8]) {
        assert!(piece.len() < STEP / 2);
        self.make_room();
        let n = piece.len();
        // SAFETY: there is room for `STEP` bytes behind the last one; each copy reads inside
        // `piece` and writes inside the `n` bytes behind the tag, the two of a pair overlapping.
        unsafe {
            let len = self.bytes.len();
            let to = self.bytes.as_mut_ptr().add(len);
            to.write(tag);
            let (from, to) = (piece.as_ptr(), to.add(1));
            match n {
                16.. => pair::<16>(from, to, n),
                8.. => pair::<8>(from, to, n),
                4.. => pair::<4>(from, to, n),
                2.. => pair::<2>(from, to, n),
                1 => to.write(from.read()),
                0 => (),
            }
            self.bytes.set_len(len + 1 + n);
        }
    }

    /// Append them.
    pub fn put_long(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
    }
}

/// Copy `n` bytes, between `N` and twice that, as the first `N` and the last `N`.
///
/// # Safety
/// `from` and `to` are valid for `n` bytes, and do not overlap.
#[inline(always)]
unsafe fn pair<const N: usize>(from: *const u8, to: *mut u8, n: usize) {
    // SAFETY: the caller's.
    unsafe {
        let first = from.cast::<[u8; N]>().read();
        let last = from.add(n - N).cast::<[u8; N]>().read();
        to.cast::<[u8; N]>().write(first);
        to.add(n - N).cast::<[u8; N]>().write(last);
    }
}

#[cfg(test)]
mod tests {
    use super::Sink;

    #[test]
    fn as_a_vec_would() {
        let text: Vec<u8> = (0..40).collect();
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        let mut sink = Sink::new(&mut bytes);
        for n in (0..32).cycle().take(500) {
            sink.put_short(n as u8, &text[..n]);
            expected.push(n as u8);
            expected.extend_from_slice(&text[..n]);
            sink.put([1, 2, 3]);
            sink.put_long(&text);
            expected.extend_from_slice(&[1, 2, 3]);
            expected.extend_from_slice(&text);
            assert_eq!(sink.len(), expected.len());
        }
        *sink.byte_mut(0) = 9;
        expected[0] = 9;
        assert_eq!(bytes, expected);
    }
}
