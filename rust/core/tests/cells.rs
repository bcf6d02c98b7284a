//! Cells: bounds, widths, steps, and copies with a stride.

use fastmp_core::Error;
use fastmp_core::arena::Block;
use fastmp_core::cells::{Cells, Stride, Update};
use fastmp_core::layout::{Backing, Kind};
use fastmp_core::objects::Memory;
use proptest::prelude::*;

fn memory(bytes: usize) -> Memory {
    Memory::create(bytes).expect("memory")
}

#[test]
fn integers_wrap_in_their_own_width() {
    let memory = memory(8);
    let view = |width| memory.cells((), width, 8 / width).expect("cells");
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
        let memory = memory(3 * width);
        let cells = memory.cells((), width, 3).expect("cells");
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
    let memory = memory(64);
    for (width, len) in [(3, 1), (0, 1), (8, 9), (8, usize::MAX / 4)] {
        assert!(matches!(memory.cells((), width, len), Err(Error::Corrupted(_))), "{width} {len}");
    }
    let block = Block::alloc(Kind::Memory, 64).expect("memory");
    for (offset, width, len) in [(block.payload() + 1, 2, 1), (usize::MAX - 7, 8, 1), (0, 8, 1 << 40)] {
        let refused = Cells::new(block.mapping().clone(), (), offset, width, len);
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
        let memory = memory(width * len);
        let cells = memory.cells((), width, len).expect("cells");
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
