//! The smallest graph that still fails.

use super::plan::{Kind, Plan};

/// Makes a failing plan smaller as long as it fails: steps are left out, their values become inputs.
pub fn shrink(mut plan: Plan, fails: impl Fn(&Plan) -> bool) -> Plan {
    loop {
        let smaller = candidates(&plan).find(|candidate| fails(candidate));
        match smaller {
            Some(smaller) => plan = smaller,
            None => return plan,
        }
    }
}

/// Plans with less in them, the smallest first.
fn candidates(plan: &Plan) -> impl Iterator<Item = Plan> + '_ {
    let cut = (0..plan.steps.len()).map(|k| without(plan, k));
    let prefix = (1..plan.steps.len()).map(|n| {
        let mut shorter = plan.clone();
        shorter.steps.truncate(n);
        shorter.extra.retain(|id| shorter.steps.iter().any(|s| s.outputs.contains(id)));
        shorter
    });
    let fewer = (0..plan.extra.len()).map(|k| {
        let mut fewer = plan.clone();
        fewer.extra.remove(k);
        fewer
    });
    let fixed = (0..plan.values.len()).filter_map(|id| {
        let mut plain = plan.clone();
        let Kind::Input { symbols } = &mut plain.values[id].kind else { return None };
        let had = symbols.iter_mut().filter_map(Option::take).count();
        let read = plan.steps.iter().any(|s| s.inputs.contains(&Some(id)));
        (had > 0 && read).then_some(plain)
    });
    prefix.chain(cut).chain(fewer).chain(fixed)
}

/// The plan without a step; what is read of it is given.
fn without(plan: &Plan, k: usize) -> Plan {
    let mut smaller = plan.clone();
    let step = smaller.steps.remove(k);
    for id in step.outputs {
        let symbols = vec![None; smaller.values[id].array.shape().len()];
        smaller.values[id].kind = Kind::Input { symbols };
        smaller.extra.retain(|&other| other != id);
    }
    smaller
}
