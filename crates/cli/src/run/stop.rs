//! Signals: what stops us stops the command first, and never costs its outcome.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Context, Result};
use crate::out;

/// Whether we were asked to stop, and what we are at.
#[derive(Clone)]
pub(crate) struct Stop(Arc<Mutex<Now>>);

struct Now {
    phase: Phase,
    is_asked: bool,
}

/// What a signal meets.
#[derive(Clone, Copy)]
pub(crate) enum Phase {
    /// Nothing runs: we go, and what waits goes on waiting.
    Waiting,
    /// The command is told.
    Running(Pid),
    /// The outcome is on its way to the gateway; asked twice, we go without.
    Reporting,
}

impl Stop {
    /// From now on signals come here.
    pub(crate) fn listen() -> Result<Stop> {
        let stop = Stop(Arc::new(Mutex::new(Now { phase: Phase::Waiting, is_asked: false })));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.while_we(cannot)?;
        let guard = runtime.enter();
        let mut hangup = signal(SignalKind::hangup()).while_we(cannot)?;
        let mut interrupt = signal(SignalKind::interrupt()).while_we(cannot)?;
        let mut terminate = signal(SignalKind::terminate()).while_we(cannot)?;
        drop(guard);
        let there = stop.clone();
        std::thread::spawn(move || {
            runtime.block_on(async {
                loop {
                    there.hear(tokio::select! {
                        _ = hangup.recv() => Signal::HUP,
                        _ = interrupt.recv() => Signal::INT,
                        _ = terminate.recv() => Signal::TERM,
                    });
                }
            });
        });
        Ok(stop)
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.now().is_asked
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.now().phase = phase;
    }

    fn hear(&self, signal: Signal) {
        let mut now = self.now();
        match now.phase {
            // From a terminal the whole group has it already.
            Phase::Running(_) if signal == Signal::INT && std::io::stdin().is_terminal() => {}
            Phase::Running(pid) => {
                // It may be over by now.
                let _ = kill_process(pid, signal);
            }
            Phase::Reporting if !now.is_asked => {
                out::note(format_args!(
                    "countersign: telling the gateway what came of it; once more to leave"
                ));
            }
            Phase::Waiting | Phase::Reporting => {
                out::note(format_args!(
                    "countersign: stopped; what the gateway has on record stays as it is"
                ));
                std::process::exit(128 + signal.as_raw());
            }
        }
        now.is_asked = true;
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cannot() -> String {
    "cannot listen for signals".to_owned()
}
