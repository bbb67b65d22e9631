<#
.SYNOPSIS
    Installs the speech gateway for this machine. What to install is decided in scripts/provision.py.
.EXAMPLE
    .\setup.ps1
.EXAMPLE
    .\setup.ps1 -Accelerator cuda -Extras ui
#>
param(
    # auto: what fits this machine; directml: Whisper on any DirectX 12 GPU; torch-directml: also an old torch for it,
    # in an environment of its own; cuda: torch for NVIDIA; cpu: nothing but the processor.
    [ValidateSet('auto', 'directml', 'torch-directml', 'cuda', 'cpu')]
    [string]$Accelerator = 'auto',
    # Further extras of pyproject.toml, such as ui.
    [string]$Extras = '',
    # Which package brings ONNX Runtime; auto: onnxruntime-windowsml, or onnxruntime-directml where that does not load.
    [ValidateSet('auto', 'windowsml', 'directml')]
    [string]$OnnxRuntime = 'auto'
)

$ErrorActionPreference = 'Stop'
# A Japanese or Western console would otherwise turn names and messages into question marks.
try { [Console]::OutputEncoding = New-Object System.Text.UTF8Encoding $false } catch { Write-Verbose 'no console' }
$env:PYTHONUTF8 = '1'
Set-Location -LiteralPath $PSScriptRoot

function Find-Python {
    # Windows PowerShell turns what a program writes to stderr into an error under 'Stop'.
    $ErrorActionPreference = 'Continue'
    foreach ($candidate in @('py -3.11', 'py -3.12', 'python')) {
        $words = $candidate.Split(' ')
        if (Get-Command $words[0] -ErrorAction SilentlyContinue) {
            $options = @($words | Select-Object -Skip 1)
            # 64 bit, because the libraries are; the Store's placeholder for python fails here as well.
            & $words[0] @options -c 'import sys; sys.exit(sys.maxsize < 2**32 or sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>$null
            if ($LASTEXITCODE -eq 0) { return $words }
        }
    }
    return @()
}

$python = @(Find-Python)
if ($python.Count -eq 0) {
    Write-Host 'Python 3.11 or 3.12 (64 bit) was not found. Install it with: winget install Python.Python.3.11'
    Write-Host 'Then open a new console, which knows where it is, and run .\setup.ps1 again.'
    exit 1
}
$options = @($python | Select-Object -Skip 1)
& $python[0] @options scripts/bootstrap.py setup --accelerator $Accelerator --onnxruntime $OnnxRuntime "--extras=$Extras"
exit $LASTEXITCODE
