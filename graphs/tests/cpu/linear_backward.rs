use super::*;
use toolsmith_graphs::cpu::*;

/// One case: what stands around the layers.
#[derive(Clone, Copy, Debug)]
struct Case {
    t: usize,
    k: usize,
    /// Outputs of each layer; two of one size may be gate and up.
    outputs: &'static [usize],
    norm: bool,
    swiglu: bool,
    plus: bool,
}

const CASES: [Case; 7] = [
    Case { t: 1, k: 7, outputs: &[5], norm: false, swiglu: false, plus: false },
    Case { t: 301, k: 40, outputs: &[17], norm: false, swiglu: false, plus: true },
    Case { t: 77, k: 45, outputs: &[33, 12, 64], norm: false, swiglu: false, plus: false },
    Case { t: 600, k: 48, outputs: &[70, 16, 33], norm: true, swiglu: false, plus: true },
    Case { t: 129, k: 100, outputs: &[50], norm: true, swiglu: false, plus: false },
    Case { t: 531, k: 65, outputs: &[81, 81], norm: true, swiglu: true, plus: true },
    // Sums of several blocks.
    Case { t: 40, k: 32, outputs: &[600, 600], norm: false, swiglu: true, plus: false },
];

struct Data {
    x: Vec<f32>,
    norm: Weight,
    weights: Vec<Weight>,
    dys: Vec<Vec<f32>>,
    /// Gate, up and the gradient of their product.
    swiglu: [Vec<f32>; 3],
    plus: Vec<f32>,
}

impl Data {
    fn random(c: Case, bf16: bool) -> Self {
        let mut rng = Rng(c.t as u64);
        let n = c.outputs[0];
        Data {
            x: rng.vec(c.t * c.k),
            norm: Weight::random(&mut rng, c.k, bf16),
            weights: c.outputs.iter().map(|&n| Weight::random(&mut rng, n * c.k, bf16)).collect(),
            dys: c.outputs.iter().map(|&n| rng.vec(c.t * n)).collect(),
            swiglu: [(); 3].map(|()| rng.vec(c.t * n)),
            plus: rng.vec(c.t * c.k),
        }
    }

    fn norm(&self, c: Case) -> RmsNorm<'_> {
        RmsNorm { w: self.norm.mat(), eps: 1e-5, h: c.k }
    }
}

/// `dx`, the weights' gradients and the norm's, from numbers that are there already.
fn fused(c: Case, d: &Data, bf16: bool, in_place: bool) -> Vec<Vec<f32>> {
    let mut grads: Vec<Vec<f32>> = d.weights.iter().map(|w| vec![0.5; w.mat().len()]).collect();
    let mut norm_grad = vec![0.5; c.k];
    let mut dx = if in_place { d.plus.clone() } else { vec![f32::NAN; c.t * c.k] };
    let mut buf = scratch(linear_backward_scratch(c.t, c.k, c.outputs, bf16));
    let plus = c.plus.then_some(if in_place { Operand::Output } else { Operand::Slice(&d.plus) });
    let norm = c.norm.then(|| (d.norm(c), &mut norm_grad[..]));
    let input = InputGrad { x: &d.x, norm, plus, dx: &mut dx };
    let made: Vec<Panels> = d
        .weights
        .iter()
        .map(|w| {
            let mut panels = Panels::new(w.mat().len() / c.k, c.k, w.mat().is_bf16(), false, true);
            panels.fill(w.mat());
            panels
        })
        .collect();
    let layers = grads.iter_mut().enumerate().map(|(i, dw)| {
        let dy = match (c.swiglu, i) {
            (true, 0) => Dy::Up,
            (true, _) => Dy::Gate,
            (false, i) => Dy::Given(&d.dys[i]),
        };
        let panels = made.get(i).filter(|p| in_place && p.is_filled());
        LayerGrad { w: d.weights[i].mat(), panels, dy, dw }
    });
    let [gate, up, dy] = &d.swiglu;
    let swiglu = c.swiglu.then_some(SwigluGrad { gate, up, dy });
    linear_backward(input, layers, swiglu, bf16, c.k, &mut buf.get());
    grads.extend([dx, norm_grad]);
    grads
}

/// The same by the kernels that stand alone.
fn single(c: Case, d: &Data, bf16: bool) -> Vec<Vec<f32>> {
    let (t, k) = (c.t, c.k);
    let mut x = d.x.clone();
    if c.norm {
        rms_norm(&d.x, &d.norm(c), &mut x);
    }
    let mut dys = d.dys.clone();
    if c.swiglu {
        let [gate, up, dy] = &d.swiglu;
        let [dup, dgate] = &mut dys[..] else { panic!("gate and up") };
        swiglu_backward(Operand::Slice(gate), Operand::Slice(up), dy, dgate, dup);
    }
    let mut sum: Option<Vec<f32>> = None;
    let mut grads = vec![];
    for ((dy, w), &n) in dys.iter().zip(&d.weights).zip(c.outputs) {
        let dims = Dims { t, n, k };
        let mut buf = scratch(linear_dx_scratch(dims, bf16).max(linear_dw_scratch(dims, bf16)));
        let (mut dx, mut dw) = (vec![0.0; t * k], vec![0.5; n * k]);
        linear_dx(dy, w.mat(), &mut dx, false, dims, &mut buf.get());
        linear_dw(&x, dy, &mut dw, bf16, dims, &mut buf.get());
        if let Some(sum) = &sum {
            add_assign(&mut dx, sum);
        }
        sum = Some(dx);
        grads.push(dw);
    }
    let (mut dx, mut norm_grad) = (sum.expect("a layer"), vec![0.5; k]);
    if c.norm {
        let mut buf = scratch(rms_norm_backward_scratch(t, k));
        let dy = dx.clone();
        rms_norm_backward(&d.x, &d.norm(c), &dy, &mut dx, false, &mut norm_grad, &mut buf.get());
    }
    if c.plus {
        add_assign(&mut dx, &d.plus);
    }
    grads.extend([dx, norm_grad]);
    grads
}

#[test]
fn one_call_gives_the_bits_of_many_on_any_threads() {
    on_each_isa(|| {
        for (c, bf16) in CASES.into_iter().flat_map(|c| [(c, false), (c, true)]) {
            let d = Data::random(c, bf16);
            let want = single(c, &d, bf16);
            for (threads, in_place) in [(1, false), (2, true), (3, false)] {
                let got = in_pool(threads, || fused(c, &d, bf16, in_place));
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    same_bits(got, want, &format!("{c:?}, bf16 {bf16}, {threads} threads, value {i}"));
                }
            }
        }
    });
}

/// Some weights of a bf16 model may be f32: their rows are not rounded, their gradients' operands are.
#[test]
fn weights_of_both_kinds_stand_side_by_side() {
    on_each_isa(|| {
        let c = Case { t: 70, k: 33, outputs: &[20, 31], norm: true, swiglu: false, plus: true };
        let mut d = Data::random(c, true);
        d.weights[1] = Weight::random(&mut Rng(9), 31 * 33, false);
        let bytes = [true, false].map(|bf| linear_backward_scratch(c.t, c.k, c.outputs, bf));
        assert!(bytes[0] < bytes[1], "a plan reserves the larger");
        let (x, mut dx) = (d.x.clone(), vec![0.0; c.t * c.k]);
        let mut grads: Vec<Vec<f32>> = c.outputs.iter().map(|n| vec![0.5; n * c.k]).collect();
        let mut norm_grad = vec![0.5; c.k];
        let input = InputGrad {
            x: &x,
            norm: Some((d.norm(c), &mut norm_grad)),
            plus: Some(Operand::Slice(&d.plus)),
            dx: &mut dx,
        };
        let layers = grads.iter_mut().zip(&d.weights).zip(&d.dys);
        let layers =
            layers.map(|((dw, w), dy)| LayerGrad { panels: None, w: w.mat(), dy: Dy::Given(dy), dw });
        let mut buf = scratch(bytes[1]);
        linear_backward(input, layers, None, true, c.k, &mut buf.get());
        let mut want = vec![0.0; c.t * 33];
        let mut normed = x.clone();
        rms_norm(&x, &d.norm(c), &mut normed);
        for (i, &n) in c.outputs.iter().enumerate() {
            let dims = Dims { t: c.t, n, k: c.k };
            let mut buf = scratch(linear_dx_scratch(dims, false).max(linear_dw_scratch(dims, true)));
            let (mut dx, mut dw) = (vec![0.0; c.t * c.k], vec![0.5; n * c.k]);
            linear_dx(&d.dys[i], d.weights[i].mat(), &mut dx, false, dims, &mut buf.get());
            linear_dw(&normed, &d.dys[i], &mut dw, true, dims, &mut buf.get());
            add_assign(&mut want, &dx);
            same_bits(&grads[i], &dw, "dw");
        }
        let (sum, mut norm_want) = (want.clone(), vec![0.5; c.k]);
        let mut buf = scratch(rms_norm_backward_scratch(c.t, c.k));
        rms_norm_backward(&x, &d.norm(c), &sum, &mut want, false, &mut norm_want, &mut buf.get());
        add_assign(&mut want, &d.plus);
        same_bits(&dx, &want, "dx");
        same_bits(&norm_grad, &norm_want, "the norm's");
    });
}
