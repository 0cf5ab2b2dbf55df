#!/usr/bin/env bash
# One stage on several machines, queued again before the time limit:
#
#     sbatch docs/slurm.sh scan.py --config_exp configs/scan/scan_imagenet_100.yml root_dir=/shared/results
#
# root_dir must be shared by all machines; images may be local (db_root_dir.imagenet=/local/imagenet).
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
set -u

host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000))  # two jobs may share a machine
is_due=  # whether the time limit is near

# SLURM signals this script alone. It passes the signal on: the run saves after the present step and ends.
save() {
    is_due=yes
    scancel --signal=USR1 "$SLURM_JOB_ID.0"  # step 0: the first srun of this script
}
trap save USR1

# srun does not take the number of CPUs from sbatch. When a machine's part ends, the others may still save.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0 \
    .venv/bin/torchrun --nnodes="$SLURM_NNODES" --nproc_per_node="$SLURM_GPUS_ON_NODE" \
    --rdzv_id="$SLURM_JOB_ID" --rdzv_backend=c10d --rdzv_endpoint="$host:$port" \
    --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2 --shutdown-timeout=240 "$@" &
step=$!
wait "$step"  # a signal ends this wait early
code=$?
if [ "$is_due" ]; then
    wait "$step"
    code=$?
    [ "$code" -eq 0 ] || scontrol requeue "$SLURM_JOB_ID"  # a run that has just finished is not queued again
fi
exit "$code"
