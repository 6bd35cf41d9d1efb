"""The schedulers of diffusers that stand for our samplers and schedules."""

import inspect

from engines.errors import BadRequest

# the scheduler's class for each sampler that diffusers has too, and what it is built with
SCHEDULERS = {
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm_2": ("KDPM2DiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}
SPACINGS = {
    "linear": {},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "sgm_uniform": {"timestep_spacing": "trailing"},
}


def chosen(request, own):
    """The scheduler that a request asks for, set up like the pipeline's `own`.

    Raises `BadRequest` for a sampler or a schedule that diffusers has not, or not for such a pipeline.
    """
    import diffusers

    name, options = SCHEDULERS.get(request.sampler, ("", {}))
    spacing = SPACINGS.get(request.scheduler)
    kind = getattr(diffusers, name, None)
    if kind is None:
        raise BadRequest(f"A pipeline of diffusers has no {request.sampler}; choose among: {', '.join(SCHEDULERS)}.")
    if spacing is None or not spacing.keys() <= inspect.signature(kind).parameters.keys():
        raise BadRequest(f"{request.sampler} of diffusers knows no {request.scheduler} schedule; choose linear.")
    flows = own.config.get("prediction_type") == "flow_prediction"
    if flows and (spacing or "use_flow_sigmas" not in inspect.signature(kind).parameters):
        raise BadRequest("A flow is drawn by diffusers with dpmpp_2m or unipc and the linear schedule; choose those.")
    return kind.from_config(own.config, **options, **spacing)
