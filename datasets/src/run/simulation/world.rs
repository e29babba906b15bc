//! Time, chance and tasks: a single-threaded executor whose every choice comes from the seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

use super::store::{Documents, Operation, Store};
use super::{Chances, Planted, Tally};
use crate::run::record::CommitRecord;

/// A generator whose numbers are the same on every machine and in every version: SplitMix64.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        // Seeds are small and consecutive, so they are spread first.
        let mut random = Self(seed.wrapping_mul(0xd134_2543_de82_ef95));
        random.next();
        random
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `end`, exclusive; 0 when `end` is 0.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// True once in `times` on average.
    pub(super) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// Who a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A driver, and which of its lives this is.
    Driver { driver: usize, life: u64 },
    /// An attempt at a split for a driver's round.
    Worker { life: u64, round: usize, writer: usize },
}

/// Something that is due at a time.
pub(super) enum Event {
    /// A task goes on.
    Wake(Waker),
    /// An operation has its effect on the store.
    Effect(usize),
    /// An operation is answered.
    Answer(usize),
    /// A driver is started, perhaps again.
    Start(usize),
}

/// Splits that a driver runs side by side.
#[derive(Default)]
pub(super) struct Round {
    pub(super) open: usize,
    pub(super) unsuccessful: Vec<u64>,
    /// The records that its workers know to be committed.
    pub(super) known: Vec<CommitRecord>,
    pub(super) waker: Option<Waker>,
}

/// One attempt at a split, as the checks see it.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    pub(super) split: u64,
    /// It believes to have committed the split itself.
    pub(super) believes: bool,
    /// It knows the split to be committed, by itself or by another.
    pub(super) successful: bool,
    /// Its task is over.
    pub(super) ended: bool,
    /// When it last did anything: its task, or a request of it that was still under way.
    pub(super) last_act: u64,
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
type Timers = BinaryHeap<Reverse<(u64, u64, usize)>>;

/// Everything that is shared by the tasks of one seed.
pub(super) struct State {
    pub(super) now: u64,
    pub(super) random: Random,
    pub(super) chances: Chances,
    pub(super) planted: Option<Planted>,
    pub(super) store: Store,
    pub(super) documents: Documents,
    pub(super) operations: Vec<Operation>,
    pub(super) rounds: Vec<Round>,
    pub(super) writers: Vec<Writer>,
    /// Times at which sweeps began that found nothing they could not delete.
    pub(super) sweeps: Vec<u64>,
    pub(super) tally: Tally,
    /// The first thing that went wrong, in words.
    pub(super) violation: Option<String>,
    pub(super) drivers_alive: usize,
    pub(super) starts_pending: usize,
    /// How often each driver may still be started again.
    pub(super) restarts: Vec<u32>,
    lives: u64,
    timers: Timers,
    events: Vec<Option<Event>>,
    spawned: Vec<(Role, Task)>,
}

/// A handle on the state, which tasks hold.
#[derive(Clone)]
pub(super) struct World(Arc<Mutex<State>>);

impl World {
    pub(super) fn new(seed: u64, chances: Chances, planted: Option<Planted>) -> Self {
        Self(Arc::new(Mutex::new(State {
            now: 0,
            random: Random::new(seed),
            chances,
            planted,
            store: Store::default(),
            documents: Documents::default(),
            operations: Vec::new(),
            rounds: Vec::new(),
            writers: Vec::new(),
            sweeps: Vec::new(),
            tally: Tally::default(),
            violation: None,
            drivers_alive: 0,
            starts_pending: 0,
            restarts: Vec::new(),
            lives: 0,
            timers: Timers::new(),
            events: Vec::new(),
            spawned: Vec::new(),
        })))
    }

    pub(super) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock())
    }

    pub(super) fn spawn(&self, role: Role, task: impl Future<Output = ()> + Send + 'static) {
        self.with(|state| state.spawned.push((role, Box::pin(task))));
    }

    /// Waits for `time` ticks.
    pub(super) fn sleep(&self, time: u64) -> Sleep {
        Sleep { world: self.clone(), time: Some(time), until: 0 }
    }
}

impl State {
    pub(super) fn at(&mut self, time: u64, event: Event) {
        // Events of the same time come in an order that the seed decides.
        let tie = self.random.next();
        self.timers.push(Reverse((time, tie, self.events.len())));
        self.events.push(Some(event));
    }

    pub(super) fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    pub(super) fn start_driver_after(&mut self, delay: u64, driver: usize) {
        self.starts_pending += 1;
        self.after(delay, Event::Start(driver));
    }

    /// Starts a driver again after a while, if it has lives left.
    pub(super) fn restart_driver(&mut self, driver: usize) {
        let Some(restarts) = self.restarts.get_mut(driver).filter(|restarts| **restarts > 0) else { return };
        *restarts -= 1;
        let delay = 1 + self.random.below(200);
        self.start_driver_after(delay, driver);
    }

    pub(super) fn violated(&mut self, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(what());
        }
    }

    fn next_event(&mut self) -> Option<Event> {
        let Reverse((time, _, event)) = self.timers.pop()?;
        self.now = self.now.max(time);
        self.events[event].take()
    }

    /// Notes that a task is over, and wakes the driver that waits for it.
    fn ended(&mut self, role: Role) -> Option<Waker> {
        match role {
            Role::Driver { .. } => {
                self.drivers_alive -= 1;
                None
            }
            Role::Worker { round, writer, .. } => {
                let writer = &mut self.writers[writer];
                writer.ended = true;
                writer.last_act = writer.last_act.max(self.now);
                let round = &mut self.rounds[round];
                round.open -= 1;
                if !writer.successful {
                    round.unsuccessful.push(writer.split);
                }
                round.waker.take()
            }
        }
    }
}

/// A pause of virtual time.
pub(super) struct Sleep {
    world: World,
    time: Option<u64>,
    until: u64,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let time = self.time.take();
        let world = self.world.clone();
        world.with(|state| {
            if let Some(time) = time {
                self.until = state.now + time;
                state.at(self.until, Event::Wake(context.waker().clone()));
            }
            if state.now >= self.until && time.is_none() { Poll::Ready(()) } else { Poll::Pending }
        })
    }
}

/// The tasks of one seed.
pub(super) struct Executor {
    world: World,
    tasks: Vec<Option<(Role, Task, Waker)>>,
    ready: Arc<Mutex<Vec<usize>>>,
    steps: u64,
}

struct TaskWaker {
    task: usize,
    ready: Arc<Mutex<Vec<usize>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.lock().push(self.task);
    }
}

/// Why [`Executor::run`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// There is nothing left to do.
    Drained,
    /// All drivers are over and none is to be started.
    DriversOver,
    /// More steps than a run may take.
    TooLong,
}

impl Executor {
    pub(super) fn new(world: World) -> Self {
        Self { world, tasks: Vec::new(), ready: Arc::default(), steps: 0 }
    }

    /// Runs tasks until nothing is left, or until all drivers are over when `only_drivers`.
    pub(super) fn run(&mut self, only_drivers: bool, most_steps: u64, start: impl Fn(&World, usize, u64)) -> Stopped {
        let last_step = self.steps + most_steps;
        loop {
            self.admit();
            if self.steps > last_step {
                return Stopped::TooLong;
            }
            if only_drivers && self.world.with(|state| state.drivers_alive == 0 && state.starts_pending == 0) {
                return Stopped::DriversOver;
            }
            let woken = {
                let mut ready = self.ready.lock();
                let count = ready.len() as u64;
                (count > 0).then(|| {
                    let choice = if count == 1 { 0 } else { self.world.with(|state| state.random.below(count)) };
                    ready.swap_remove(usize::try_from(choice).unwrap_or_default())
                })
            };
            if let Some(task) = woken {
                self.step(task);
                continue;
            }
            let Some(event) = self.world.with(State::next_event) else { return Stopped::Drained };
            match event {
                Event::Wake(waker) => waker.wake(),
                Event::Effect(operation) => self.world.with(|state| state.take_effect(operation)),
                Event::Answer(operation) => {
                    if let Some(waker) = self.world.with(|state| state.answer(operation)) {
                        waker.wake();
                    }
                }
                Event::Start(driver) => {
                    let life = self.world.with(|state| {
                        state.starts_pending -= 1;
                        state.drivers_alive += 1;
                        state.lives += 1;
                        state.lives
                    });
                    start(&self.world, driver, life);
                }
            }
        }
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// Takes in tasks that were spawned.
    fn admit(&mut self) {
        for (role, task) in self.world.with(|state| std::mem::take(&mut state.spawned)) {
            let number = self.tasks.len();
            let waker = Waker::from(Arc::new(TaskWaker { task: number, ready: Arc::clone(&self.ready) }));
            self.tasks.push(Some((role, task, waker)));
            self.ready.lock().push(number);
        }
    }

    /// Lets a task go on, or crash.
    fn step(&mut self, number: usize) {
        let Some((role, task, waker)) = self.tasks[number].as_mut() else { return };
        self.steps += 1;
        let role = *role;
        let crashes = self.world.with(|state| state.chances.crashes(&mut state.random));
        if crashes {
            self.crash(number, role);
            return;
        }
        if task.as_mut().poll(&mut Context::from_waker(waker)).is_ready() {
            self.tasks[number] = None;
            end(&self.world, role);
        }
    }

    /// Ends a task between two of its steps. Requests that it has sent still have their effects.
    fn crash(&mut self, number: usize, role: Role) {
        self.tasks[number] = None;
        self.world.with(|state| state.tally.crashes += 1);
        end(&self.world, role);
        let Role::Driver { driver, life } = role else { return };
        // Workers in the driver's own process die with it, remote ones live on.
        if self.world.with(|state| state.random.one_in(2)) {
            for task in &mut self.tasks {
                let role = task.as_ref().map(|(role, _, _)| *role);
                if let Some(role @ Role::Worker { life: of, .. }) = role
                    && of == life
                {
                    *task = None;
                    end(&self.world, role);
                }
            }
        }
        self.world.with(|state| state.restart_driver(driver));
    }
}

fn end(world: &World, role: Role) {
    if let Some(waker) = world.with(|state| state.ended(role)) {
        waker.wake();
    }
}
