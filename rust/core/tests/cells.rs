//! Cells: bounds, widths, steps, and copies with a stride.

use std::sync::Arc;

use fastmp_core::Error;
use fastmp_core::cells::{Cells, Stride, Update};
use fastmp_core::layout::Backing;
use fastmp_core::objects::Memory;
use proptest::prelude::*;

fn cells(width: usize, len: usize) -> Cells<Memory> {
    let memory = Memory::create(width * len).expect("memory");
    let offset = memory.offset();
    Cells::new(memory, offset, width, len).expect("cells")
}

/// Two views of the same memory.
#[derive(Clone)]
struct Both(Arc<Memory>);

impl Backing for Both {
    fn mapping(&self) -> &Arc<fastmp_core::sys::mapping::Mapping> {
        self.0.mapping()
    }
}

#[test]
fn integers_wrap_in_their_own_width() {
    let memory = Both(Arc::new(Memory::create(8).expect("memory")));
    let view = |width| Cells::new(memory.clone(), memory.0.offset(), width, 8 / width).expect("cells");
    let (bytes, shorts, ints, longs) = (view(1), view(2), view(4), view(8));
    assert_eq!(longs.store(0, 0xffff), Some(()));
    assert_eq!(bytes.update(0, Update::Add, 2), Some(0xff));
    assert_eq!(shorts.load(0), Some(0xff01));
    assert_eq!(shorts.update(0, Update::Sub, 0xff02), Some(0xff01));
    assert_eq!(longs.load(0), Some(0xffff));
    assert_eq!(ints.compare_exchange(0, 0, 1), Some(false));
    assert_eq!(ints.compare_exchange(0, 0xffff, u64::MAX), Some(true));
    assert_eq!(longs.load(0), Some(0xffff_ffff));
    assert_eq!(longs.update(0, Update::Swap, 6), Some(0xffff_ffff));
    assert_eq!(longs.update(0, Update::And, 3), Some(6));
    assert_eq!(longs.update(0, Update::Or, 5), Some(2));
    assert_eq!(longs.update(0, Update::Xor, 1), Some(7));
    assert_eq!(longs.load(0), Some(6));
}

#[test]
fn nothing_outside_is_touched() {
    for width in [1, 2, 4, 8] {
        let cells = cells(width, 3);
        assert_eq!((cells.len(), cells.width()), (3, width));
        for i in [3, usize::MAX] {
            assert_eq!(cells.load(i), None);
            assert_eq!(cells.store(i, 1), None);
            assert_eq!(cells.update(i, Update::Add, 1), None);
            assert_eq!(cells.compare_exchange(i, 0, 1), None);
        }
        for (start, step, count) in
            [(0, 1, 4), (3, 1, 1), (2, -1, 4), (0, 2, 3), (0, isize::MIN, 2), (1, isize::MAX, 3)]
        {
            let stride = Stride { start, step, count };
            assert_eq!(cells.read(stride, &mut vec![0; width * count]), None);
            assert_eq!(cells.write(stride, &vec![0; width * count]), None);
        }
        let all = Stride { start: 0, step: 1, count: 3 };
        assert_eq!(cells.read(all, &mut vec![0; 3 * width - 1]), None);
        assert_eq!(cells.read(Stride { start: usize::MAX, step: 1, count: 0 }, &mut []), None);
        assert_eq!(cells.read(Stride { start: 3, step: 7, count: 0 }, &mut []), Some(()));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let memory = Both(Arc::new(Memory::create(64).expect("memory")));
    let at = memory.0.offset();
    for (offset, width, len) in [(at, 3, 1), (at + 1, 2, 1), (at, 8, usize::MAX / 4), (usize::MAX - 7, 8, 1)] {
        let refused = Cells::new(memory.clone(), offset, width, len);
        assert!(matches!(refused, Err(Error::Corrupted(_))), "{offset} {width} {len}");
    }
}

proptest! {
    #[test]
    fn strides_are_those_of_a_slice(
        width in prop::sample::select(vec![1_usize, 2, 4, 8]),
        len in 1_usize..40,
        start in 0_usize..40,
        step in -5_isize..=5,
        count in 0_usize..40,
        seed in any::<u8>(),
    ) {
        let cells = cells(width, len);
        let mut model: Vec<Vec<u8>> = vec![vec![0; width]; len];
        let new: Vec<u8> = (0..width * count).map(|i| seed.wrapping_add(i as u8)).collect();
        let stride = Stride { start, step, count };
        let indices: Vec<isize> = (0..count as isize).map(|i| start as isize + i * step).collect();
        let inside = indices.iter().all(|&i| (0..len as isize).contains(&i));
        let written = cells.write(stride, &new);
        if count > 0 {
            prop_assert_eq!(written.is_some(), inside);
        }
        if inside {
            for (&i, item) in indices.iter().zip(new.chunks(width)) {
                model[i as usize] = item.to_vec();
            }
        }
        let mut all = vec![0; width * len];
        prop_assert_eq!(cells.read(Stride { start: 0, step: 1, count: len }, &mut all), Some(()));
        prop_assert_eq!(&all, &model.concat());
        if written.is_some() {
            let mut back = vec![0; width * count];
            cells.read(stride, &mut back).expect("there");
            let expected: Vec<u8> = indices.iter().flat_map(|&i| model[i as usize].clone()).collect();
            prop_assert_eq!(back, expected);
        }
    }
}
