//! The processes that train together: each has a part of every step's samples, their gradients are averaged, and all hold the
//! same parameters and state. Nothing outside of this file knows MPI.
//!
//! What can fail on one process alone is followed by [`Group::agree`] on all of them, at the same place: none waits for
//! another that has gone.

use super::Error;
use crate::runtime::Row;

/// Variables in which launchers tell a process how many there are: Open MPI, MPICH and those after it, MVAPICH.
const SIZES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"];

/// This process among those that train together. Without a launcher it is alone, and nothing here does anything.
#[derive(Debug, Clone)]
pub struct Group {
    rank: usize,
    size: usize,
    #[cfg(feature = "mpi")]
    world: Option<std::sync::Arc<mpi_world::World>>,
}

/// What elements of several processes become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reduction {
    Sum,
    Min,
    Max,
}

impl Group {
    /// A process by itself.
    pub fn alone() -> Group {
        Group {
            rank: 0,
            size: 1,
            #[cfg(feature = "mpi")]
            world: None,
        }
    }

    /// The group that a launcher such as `mpirun` has started this process in. Called once a process, by the thread that
    /// trains.
    ///
    /// # Errors
    /// [`Error::NoMpi`] if there are several processes and the program is built without MPI; [`Error::Mpi`] if MPI does not
    /// start.
    pub fn join() -> Result<Group, Error> {
        let launched = SIZES.into_iter().filter_map(|name| std::env::var(name).ok()?.parse().ok()).max().unwrap_or(1);
        Group::launched(launched)
    }

    #[cfg(not(feature = "mpi"))]
    fn launched(processes: usize) -> Result<Group, Error> {
        if processes > 1 { Err(Error::NoMpi { processes }) } else { Ok(Group::alone()) }
    }

    #[cfg(feature = "mpi")]
    fn launched(processes: usize) -> Result<Group, Error> {
        // PMIx tells each process its rank, and the number of all only when it is asked.
        if processes <= 1 && std::env::var_os("PMIX_RANK").is_none() {
            return Ok(Group::alone());
        }
        let world = mpi_world::World::start()?;
        let (rank, size) = world.place();
        Ok(Group { rank, size, world: Some(world.into()) })
    }

    /// Counted from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    pub fn size(&self) -> usize {
        self.size
    }

    pub fn is_alone(&self) -> bool {
        self.size == 1
    }

    /// Whether this is the process that writes the run and speaks for all.
    pub fn leads(&self) -> bool {
        self.rank == 0
    }

    /// The lowest rank on which something holds, if any. All processes ask together.
    pub fn lowest(&self, holds: bool) -> Option<usize> {
        let mut rank = [if holds { self.rank } else { self.size } as u64];
        self.reduce(&mut rank, Reduction::Min);
        Some(rank[0] as usize).filter(|&rank| rank < self.size)
    }

    /// The result, if no process has failed.
    ///
    /// # Errors
    /// The process's own error; [`Error::Peer`] if only others have one.
    pub fn agree<T, E: From<Error>>(&self, result: Result<T, E>) -> Result<T, E> {
        match (self.lowest(result.is_err()), result) {
            (Some(rank), Ok(_)) => Err(Error::Peer { rank }.into()),
            (_, result) => result,
        }
    }

    /// Does something on the first process while the others wait; theirs is `None`.
    ///
    /// # Errors
    /// As [`Group::agree`].
    pub fn first_does<T, E: From<Error>>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<Option<T>, E> {
        self.agree(if self.leads() { work().map(Some) } else { Ok(None) })
    }

    /// Whether a number is the same everywhere.
    pub(super) fn same(&self, number: u64) -> bool {
        let [mut low, mut high] = [[number]; 2];
        self.reduce(&mut low, Reduction::Min);
        self.reduce(&mut high, Reduction::Max);
        low == high
    }

    /// The largest of all processes' numbers.
    pub fn largest(&self, number: usize) -> usize {
        let mut largest = [number as u64];
        self.reduce(&mut largest, Reduction::Max);
        largest[0] as usize
    }

    /// Sums each element over the processes.
    pub(super) fn sum(&self, numbers: &mut [f64]) {
        self.reduce(numbers, Reduction::Sum);
    }

    /// [`Group::sum`] of a row.
    pub(super) fn sum_row(&self, row: &mut Row) {
        match row {
            Row::F32(row) => self.reduce(row, Reduction::Sum),
            Row::F64(row) => self.reduce(row, Reduction::Sum),
        }
    }

    #[cfg(not(feature = "mpi"))]
    fn reduce<T>(&self, _: &mut [T], _: Reduction) {}

    #[cfg(feature = "mpi")]
    fn reduce<T: Copy + mpi::traits::Equivalence>(&self, numbers: &mut [T], reduction: Reduction) {
        if let Some(world) = self.world.as_ref().filter(|_| self.size > 1) {
            world.reduce(numbers, reduction);
        }
    }
}

#[cfg(feature = "mpi")]
mod mpi_world {
    use mpi::{
        Threading,
        collective::{CommunicatorCollectives, SystemOperation},
        environment::{Universe, initialize_with_threading},
        traits::{Communicator, Equivalence},
    };

    use super::{Error, Reduction};

    /// MPI counts elements with 32 bits.
    const AT_ONCE: usize = 1 << 28;

    /// MPI, until it is dropped, which waits for the other processes.
    pub(super) struct World(Universe);

    impl std::fmt::Debug for World {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_tuple("World").finish_non_exhaustive()
        }
    }

    impl World {
        pub fn start() -> Result<World, Error> {
            let failed = |why: &str| Error::Mpi { why: why.to_owned() };
            // Reading data and ONNX Runtime have threads of their own, which do not call MPI.
            let (universe, threading) = initialize_with_threading(Threading::Funneled)
                .ok_or_else(|| failed("it is initialised already in this process"))?;
            match threading {
                Threading::Single => Err(failed("its library is built without support for threads")),
                _ => Ok(World(universe)),
            }
        }

        /// Rank and size.
        pub fn place(&self) -> (usize, usize) {
            let world = self.0.world();
            (world.rank() as usize, world.size() as usize)
        }

        pub fn reduce<T: Copy + Equivalence>(&self, numbers: &mut [T], reduction: Reduction) {
            let operation = match reduction {
                Reduction::Sum => SystemOperation::sum(),
                Reduction::Min => SystemOperation::min(),
                Reduction::Max => SystemOperation::max(),
            };
            for part in numbers.chunks_mut(AT_ONCE) {
                let mine = part.to_vec();
                self.0.world().all_reduce_into(&mine[..], part, operation);
            }
        }
    }

    impl Drop for World {
        /// A process that panics would wait here for others that wait for it.
        fn drop(&mut self) {
            if std::thread::panicking() {
                self.0.world().abort(1);
            }
        }
    }
}
