//! L1-penalized logistic regression as LIBLINEAR solves it under scikit-learn's defaults.
//!
//! Minimizes ‖w‖₁ + Σ cᵢ ln(1 + exp(−yᵢ w · xᵢ)), yᵢ = ±1, by newGLMNET: Newton steps whose quadratic
//! model is minimized by coordinate descent in shuffled order, then a line search. Coordinates that
//! stay at 0 are set aside. It stops at a *relative* violation of 10⁻⁴, which is loose; two
//! implementations agree only if they take the same steps, so orders, constants and the random
//! numbers are LIBLINEAR's.
//!
//! Source: Yuan, Ho and Lin 2012, "An improved GLMNET for L1-regularized logistic regression",
//! algorithms 2 and 3; the constants are those of LIBLINEAR and scikit-learn.

/// Relative violation at which the solver stops.
const TOLERANCE: f64 = 1e-4;
/// Newton steps at most.
const NEWTON_STEPS: usize = 100;
/// Passes of coordinate descent in a Newton step, at most.
const PASSES: usize = 1000;
/// Halvings of a step, at most.
const HALVINGS: usize = 20;
/// Added to the second derivatives, so that none is 0.
const NU: f64 = 1e-12;
/// Share of the predicted descent that a step must reach.
const SIGMA: f64 = 0.01;
/// What scikit-learn draws from `random_state=123` for each strength of a path, in turn.
pub(super) const SEEDS: [u32; 10] = [
    843_828_734,
    914_636_141,
    1_228_959_102,
    1_840_268_610,
    974_319_580,
    819_844_194,
    220_395_238,
    941_243_409,
    942_612_051,
    2_109_339_754,
];

/// One weighted row.
#[derive(Clone, Copy)]
pub(super) struct Sample<'a> {
    /// Features.
    pub x: &'a [f64],
    /// yᵢ = 1; else −1.
    pub up: bool,
    /// cᵢ; a row of 0 is left out.
    pub cost: f64,
}

/// The coefficients; none without rows. `seed` decides the orders of visits.
pub(super) fn fit<'a>(samples: impl Iterator<Item = Sample<'a>>, seed: u32) -> Vec<f64> {
    let rows: Vec<Sample<'a>> = samples.filter(|s| s.cost > 0.0).collect();
    let Some(first) = rows.first() else {
        return Vec::new();
    };
    let up = rows.iter().filter(|r| r.up).count();
    let rare = up.min(rows.len() - up).max(1);
    let tolerance = TOLERANCE * rare as f64 / rows.len() as f64;
    let mut solver = Solver::new(&rows, first.x.len(), seed);
    solver.run(tolerance);
    solver.w
}

/// How far a coordinate is from its optimum, by its two one-sided derivatives.
fn violation(w: f64, gradient: f64) -> f64 {
    let (above, below) = (gradient + 1.0, gradient - 1.0);
    if w > 0.0 {
        above.abs()
    } else if w < 0.0 {
        below.abs()
    } else {
        (-above).max(below).max(0.0)
    }
}

/// A coordinate at 0 whose derivatives hold it there by more than `slack`.
fn settled(w: f64, gradient: f64, slack: f64) -> bool {
    let (above, below) = (gradient + 1.0, gradient - 1.0);
    w == 0.0 && above >= 0.0 && below <= 0.0 && above > slack && below < -slack
}

struct Solver<'a> {
    rows: &'a [Sample<'a>],
    /// The coefficients, and their sum of absolute values.
    w: Vec<f64>,
    norm: f64,
    /// exp(w · xᵢ).
    odds: Vec<f64>,
    /// cᵢ / (1 + odds), and the second derivative of each row's loss.
    residual: Vec<f64>,
    curvature: Vec<f64>,
    /// Σ cᵢ xᵢ over the rows with yᵢ = −1, a feature each.
    down: Vec<f64>,
    /// Coordinates in the order of visits; those set aside stand behind.
    order: Vec<usize>,
    random: Mt19937,
}

impl<'a> Solver<'a> {
    fn new(rows: &'a [Sample<'a>], k: usize, seed: u32) -> Self {
        let mut down = vec![0.0; k];
        for row in rows.iter().filter(|r| !r.up) {
            for (sum, x) in down.iter_mut().zip(row.x) {
                *sum += row.cost * x;
            }
        }
        let mut solver = Solver {
            rows,
            w: vec![0.0; k],
            norm: 0.0,
            odds: vec![1.0; rows.len()],
            residual: vec![0.0; rows.len()],
            curvature: vec![0.0; rows.len()],
            down,
            order: (0..k).collect(),
            random: Mt19937::new(seed),
        };
        solver.refresh();
        solver
    }

    /// Residuals and curvatures at the odds that hold now.
    fn refresh(&mut self) {
        for (i, row) in self.rows.iter().enumerate() {
            let share = 1.0 / (1.0 + self.odds[i]);
            self.residual[i] = row.cost * share;
            self.curvature[i] = row.cost * self.odds[i] * share * share;
        }
    }

    fn run(&mut self, tolerance: f64) {
        let (mut at_start, mut largest) = (f64::NAN, f64::INFINITY);
        let mut inner = 1.0;
        for step in 0..NEWTON_STEPS {
            let local = self.local(largest);
            if step == 0 {
                at_start = local.violation;
            }
            if local.violation <= tolerance * at_start {
                return;
            }
            let (proposal, change, passes) = self.descend(&local, inner * at_start);
            self.search(&local.gradient, proposal, change);
            if passes == 1 {
                inner *= 0.25;
            }
            largest = local.largest;
        }
    }

    /// Derivatives of the loss at w, without the coordinates that are settled.
    fn local(&mut self, largest_before: f64) -> Local {
        let k = self.w.len();
        let slack = largest_before / self.rows.len() as f64;
        let mut local = Local {
            gradient: vec![0.0; k],
            hessian: vec![NU; k],
            active: k,
            largest: 0.0,
            violation: 0.0,
        };
        let mut s = 0;
        while s < local.active {
            let j = self.order[s];
            let (mut second, mut sum) = (NU, 0.0);
            for (i, row) in self.rows.iter().enumerate() {
                second += row.x[j] * row.x[j] * self.curvature[i];
                sum += row.x[j] * self.residual[i];
            }
            local.hessian[j] = second;
            local.gradient[j] = self.down[j] - sum;
            if settled(self.w[j], local.gradient[j], slack) {
                local.active -= 1;
                self.order.swap(s, local.active);
                continue;
            }
            let off = violation(self.w[j], local.gradient[j]);
            local.largest = local.largest.max(off);
            local.violation += off;
            s += 1;
        }
        local
    }

    /// Minimizes the quadratic model by coordinate descent: the proposed w, what it changes each
    /// row's w · x by, and how many passes that took.
    fn descend(&mut self, local: &Local, enough: f64) -> (Vec<f64>, Vec<f64>, usize) {
        let mut proposal = self.w.clone();
        let mut change = vec![0.0; self.rows.len()];
        let mut active = local.active;
        let mut largest_before = f64::INFINITY;
        let mut passes = 0;
        while passes < PASSES {
            for s in 0..active {
                let other = s + self.random.below((active - s) as u32) as usize;
                self.order.swap(s, other);
            }
            let slack = largest_before / self.rows.len() as f64;
            let (mut largest, mut total) = (0.0f64, 0.0);
            let mut s = 0;
            while s < active {
                let j = self.order[s];
                let second = local.hessian[j];
                let mut gradient = local.gradient[j] + (proposal[j] - self.w[j]) * NU;
                for (i, row) in self.rows.iter().enumerate() {
                    gradient += row.x[j] * self.curvature[i] * change[i];
                }
                if settled(proposal[j], gradient, slack) {
                    active -= 1;
                    self.order.swap(s, active);
                    continue;
                }
                s += 1;
                let off = violation(proposal[j], gradient);
                largest = largest.max(off);
                total += off;
                let (above, below) = (gradient + 1.0, gradient - 1.0);
                let move_by = if above < second * proposal[j] {
                    -above / second
                } else if below > second * proposal[j] {
                    -below / second
                } else {
                    -proposal[j]
                };
                if move_by.abs() < 1e-12 {
                    continue;
                }
                let move_by = move_by.clamp(-10.0, 10.0);
                proposal[j] += move_by;
                for (changed, row) in change.iter_mut().zip(self.rows) {
                    *changed += row.x[j] * move_by;
                }
            }
            passes += 1;
            if total > enough {
                largest_before = largest;
            } else if active == local.active {
                break;
            } else {
                active = local.active;
                largest_before = f64::INFINITY;
            }
        }
        (proposal, change, passes)
    }

    /// Goes towards the proposal as far as the loss falls enough.
    fn search(&mut self, gradient: &[f64], mut proposal: Vec<f64>, mut change: Vec<f64>) {
        let norm_of = |w: &[f64]| w.iter().map(|w| w.abs()).sum::<f64>();
        let mut norm = norm_of(&proposal);
        let moved = gradient.iter().zip(&proposal).zip(&self.w);
        let mut predicted =
            moved.map(|((g, new), old)| g * (new - old)).sum::<f64>() + (norm - self.norm);
        let down = self.rows.iter().zip(&change).filter(|(row, _)| !row.up);
        let mut down: f64 = down.map(|(row, changed)| row.cost * changed).sum();
        for _ in 0..HALVINGS {
            let mut excess = norm - self.norm + down - SIGMA * predicted;
            let mut odds = Vec::with_capacity(self.odds.len());
            for ((row, changed), before) in self.rows.iter().zip(&change).zip(&self.odds) {
                let factor = changed.exp();
                let after = before * factor;
                excess += row.cost * ((1.0 + after) / (factor + after)).ln();
                odds.push(after);
            }
            if excess <= 0.0 {
                self.norm = norm;
                self.w = proposal;
                self.odds = odds;
                self.refresh();
                return;
            }
            for (new, old) in proposal.iter_mut().zip(&self.w) {
                *new = (old + *new) * 0.5;
            }
            norm = norm_of(&proposal);
            predicted *= 0.5;
            down *= 0.5;
            change.iter_mut().for_each(|c| *c *= 0.5);
        }
        // No step was taken. The odds have gathered rounding; they are made anew.
        for (odds, row) in self.odds.iter_mut().zip(self.rows) {
            let z: f64 = self.w.iter().zip(row.x).map(|(w, x)| w * x).sum();
            *odds = z.exp();
        }
    }
}

/// The loss around w: a quadratic without its mixed terms, which each pass computes itself.
struct Local {
    gradient: Vec<f64>,
    hessian: Vec<f64>,
    /// Coordinates that are not set aside.
    active: usize,
    /// Largest violation, and their sum.
    largest: f64,
    violation: f64,
}

/// The 32-bit Mersenne Twister (Matsumoto and Nishimura 1998).
struct Mt19937 {
    state: [u32; 624],
    at: usize,
}

impl Mt19937 {
    fn new(seed: u32) -> Self {
        let mut state = [seed; 624];
        for i in 1..624 {
            let before = state[i - 1] ^ (state[i - 1] >> 30);
            state[i] = before.wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Mt19937 { state, at: 624 }
    }

    fn bits(&mut self) -> u32 {
        if self.at == 624 {
            for i in 0..624 {
                let mixed =
                    (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % 624] & 0x7fff_ffff);
                let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + 397) % 624] ^ (mixed >> 1) ^ odd;
            }
            self.at = 0;
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// Uniform below `range`, without bias (Lemire 2019).
    fn below(&mut self, range: u32) -> u32 {
        loop {
            let wide = u64::from(self.bits()) * u64::from(range);
            let low = wide as u32;
            if low >= range || low >= range.wrapping_neg() % range {
                return (wide >> 32) as u32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_twister_is_the_standards() {
        // ISO C++ [rand.predef]: the 10,000th value of a default-constructed std::mt19937.
        let mut random = Mt19937::new(5489);
        let last = (0..10_000).map(|_| random.bits()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn a_weak_cost_leaves_every_coefficient_at_zero_and_no_rows_have_none() {
        // |gradient at 0| = c/2 · |x| < 1: the penalty holds w at 0.
        let x = [1.0];
        let samples = [true, false].map(|up| Sample {
            x: &x,
            up,
            cost: if up { 1.5 } else { 0.2 },
        });
        assert_eq!(fit(samples.into_iter(), 1), [0.0]);
        assert!(fit(std::iter::empty(), 1).is_empty());
    }

    #[test]
    fn the_optimum_by_hand() {
        // Intercept alone, costs a for 1 and b for 0: a (1 − σ(w)) − b σ(w) = 1, so that
        // σ(w) = (a − 1)/(a + b) = 29/40, w = ln(29/11).
        let x = [1.0];
        let samples = [(true, 30.0), (false, 10.0)].map(|(up, cost)| Sample { x: &x, up, cost });
        let w = fit(samples.into_iter(), 1);
        assert!((w[0] - (29.0f64 / 11.0).ln()).abs() < 1e-4, "{w:?}");
    }
}
