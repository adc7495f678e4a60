//! Several kernels as one.

use super::Spec;
use std::rc::Rc;

/// Kernels whose tiles are rows, each of which reads of the rows that earlier parts wrote only its own: a row passes through all of them.
/// Arguments: those of the parts, one part after the other.
pub struct Chain<K: ?Sized> {
    /// The kernels in order.
    pub parts: Vec<Rc<K>>,
}

impl<K: ?Sized + Spec> Spec for Chain<K> {
    fn name(&self) -> String {
        self.parts.iter().map(|part| part.name()).collect::<Vec<_>>().join("_then_")
    }

    fn args(&self) -> usize {
        self.parts.iter().map(|part| part.args()).sum()
    }
}

impl<K: ?Sized + Spec> Chain<K> {
    /// The parts, each with the place of its first argument.
    pub fn with_places(&self) -> impl Iterator<Item = (usize, &K)> {
        self.parts.iter().scan(0, |next, part| {
            let first = *next;
            *next += part.args();
            Some((first, &**part))
        })
    }
}
