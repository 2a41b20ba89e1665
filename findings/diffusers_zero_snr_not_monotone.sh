#!/usr/bin/env bash
# diffusers 0.42.1: with rescale_betas_zero_snr=True on the default betas (linear from 1e-4 to 0.02, 1000 levels) the
# noise levels of EulerDiscreteScheduler, DPMSolverMultistepScheduler and UniPCMultistepScheduler do not rise to the end
# of the table: the last level is 4096 and the one before it is 15406.
#
# The rescaling shifts and scales sqrt(alphas_cumprod) so that its last value is 0 (Lin et al., arXiv 2305.08891,
# Algorithm 1). These schedulers then replace that 0 by 2**-24, so that sigma = sqrt((1 - a) / a) is finite. After the
# rescaling the value before the last is 4.2e-9, which is below 2**-24 = 6.0e-8. A guess would be that the replacement
# is below every other value of the table, as it is with Stable Diffusion's betas (scaled_linear from 0.00085 to 0.012).
#
# What follows: at timestep 999 add_noise keeps 3.8 times more of the picture than at 998; a sampler over all 1000
# timesteps takes its first step upwards, from 4096 to 15406; Euler's init_noise_sigma is 15406 where its first level is
# 4096. Steps that skip timestep 998, as 20 or 50 trailing ones do, do not meet it. DDIMScheduler keeps the 0.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check diffusers==0.42.1 torch==2.14.1 numpy scipy
cd "$place"
"$place/venv/bin/python" - <<'PY'
import diffusers
import torch

print("diffusers", diffusers.__version__, "torch", torch.__version__)


def levels(kind, **betas):
    scheduler = kind(rescale_betas_zero_snr=True, timestep_spacing="trailing", **betas)
    kept = scheduler.alphas_cumprod.double()
    return scheduler, ((1 - kept) / kept).sqrt()


kinds = (diffusers.EulerDiscreteScheduler, diffusers.DPMSolverMultistepScheduler, diffusers.UniPCMultistepScheduler)
for kind in kinds:
    scheduler, sigma = levels(kind)
    print(kind.__name__, "default betas, levels 996 to 999:", [round(value) for value in sigma[-4:].tolist()])
    assert round(sigma[-1].item()) == 4096, sigma[-1]
    assert abs(sigma[-2].item() / 15406 - 1) < 1e-2, sigma[-2]
    falls = int((sigma.diff() <= 0).sum())
    assert falls == 1, falls

    _, sigma = levels(kind, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    print(kind.__name__, "Stable Diffusion's betas:       ", [round(value) for value in sigma[-4:].tolist()])
    assert bool((sigma.diff() > 0).all())

euler, _ = levels(kinds[0])
euler.set_timesteps(1000)
first, second = euler.sigmas[:2].tolist()
print("Euler, 1000 steps: first levels", first, second, "and init_noise_sigma", float(euler.init_noise_sigma))
assert second > 3.7 * first and float(euler.init_noise_sigma) > 3.7 * first

picture, none = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
dpm, _ = levels(kinds[1])
dpm.set_timesteps(1000)
kept = [dpm.add_noise(picture, none, torch.tensor([t])).item() for t in (997, 998, 999)]
print("of the picture, add_noise keeps at 997, 998, 999:", kept)
assert kept[2] > 3.7 * kept[1]

ddim, _ = levels(diffusers.DDIMScheduler)
assert ddim.alphas_cumprod[-1] == 0
PY
echo "as described"
